#!/usr/bin/env bash
# Make a stand-in for `python:3.11-slim` on a machine that reaches a Debian mirror but no container
# registry: a minimal Debian, this machine's Python without its packages, this machine's trusted
# certificates. For trying the image locally and in such a CI; production builds take the real base.
#
#   scripts/local-base-image.sh [IMAGE]       IMAGE: docker.io/library/python:<X.Y>-slim
#
# Needs mmdebstrap, podman, root. An image of that name which exists already is left as it is.
set -euo pipefail

python=$(python3 -c 'import os, sys; print(os.path.realpath(sys._base_executable))')
prefix=$("$python" -c 'import sys; print(sys.base_prefix)')
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
image=${1:-docker.io/library/python:$version-slim}

if podman image exists "$image"; then
  echo "$image is there already."
  exit 0
fi

# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

echo "Making a minimal Debian ($suite) ..."
libraries=libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g,libexpat1,libuuid1,libncursesw6
mmdebstrap --quiet --variant=apt --include="ca-certificates,passwd,$libraries" "$suite" "$work/base.tar"
mkdir "$root"
tar -xf "$work/base.tar" -C "$root"

echo "Adding Python $version from $prefix ..."
mkdir -p "$root/usr/local"
tar -C "$prefix" \
  --exclude='./lib/python*/site-packages/*' --exclude='./lib/python*/test' \
  --exclude='./lib/python*/config-*' --exclude='*/__pycache__' --exclude='*.a' --exclude='./share' \
  --exclude='./bin/*' -c . | tar -C "$root/usr/local" -x --no-same-owner
install -m 755 "$python" "$root/usr/local/bin/python$version"
ln -sf "python$version" "$root/usr/local/bin/python3"
ln -sf python3 "$root/usr/local/bin/python"
chroot "$root" ldconfig
chroot "$root" /usr/local/bin/python -m ensurepip --default-pip > "$work/pip.log"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

# What this machine trusts, the image trusts: behind a proxy with its own authority pip needs that.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$root/etc/pip.conf"
fi

tar -C "$root" -c . | podman import --quiet \
  --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin' \
  --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' - "$image"
podman image inspect --format '{{.Size}} bytes' "$image"
