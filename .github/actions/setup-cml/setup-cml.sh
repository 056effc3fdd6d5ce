#!/usr/bin/env bash
# Put CML on PATH, from one commit of its repository and the integrity hashes of its lock file.
#   setup-cml.sh plan       check the inputs, say where CML will stand (before the cache is restored)
#   setup-cml.sh install    fetch and install what the cache did not hold, write the `cml` program
set -euo pipefail

repository=${SETUP_CML_REPOSITORY:-}
commit=${SETUP_CML_COMMIT:-}
home=${RUNNER_TEMP:?is set on every runner}/trilho-cml
folder=$home/$commit
attempts=3
pause=${SETUP_CML_PAUSE:-3}

# stop EXIT-CODE LEVEL MESSAGE: one annotation; a text cannot end it and start a command.
stop() {
  local text=${3//'%'/%25}
  text=${text//$'\r'/%0D}
  printf '::%s title=setup-cml::%s\n' "$2" "${text//$'\n'/%0A}"
  exit "$1"
}

# A report is posted without CML, too: that it cannot be had is a warning, not an error.
unavailable() { stop 7 warning "$1 Nothing is lost: the report is posted without CML."; }

check_inputs() {
  [[ $commit =~ ^[0-9a-f]{40}$ ]] ||
    stop 2 error "commit is '$commit': expected the 40 hexadecimal digits of a commit."
  [[ $repository =~ ^(https|file)://|^/ ]] ||
    stop 2 error "repository is '$repository': expected an https:// address or an absolute path."
}

# Nothing that is fetched needs a secret, so none is there to be had.
forget_secrets() {
  local name
  shopt -s nocasematch
  for name in $(compgen -e); do
    if [[ $name =~ token|secret|password|credential|access_key|private_key ]]; then
      unset "$name"
    fi
  done
  shopt -u nocasematch
}

# retry COMMAND...: bounded; the last failure is the result.
retry() {
  local attempt
  for ((attempt = 1; ; attempt++)); do
    "$@" && return 0
    ((attempt < attempts)) || return 1
    echo "Attempt $attempt of $attempts failed, again in $((pause * attempt)) s: $*" >&2
    sleep $((pause * attempt))
  done
}

fetch() {
  git -C "$1" -c http.lowSpeedLimit=1000 -c http.lowSpeedTime=30 \
    fetch --quiet --depth 1 --no-tags -- "$repository" "$commit"
}

install_packages() {
  (cd "$1" && npm ci --omit=dev --ignore-scripts --no-audit --no-fund --loglevel=error \
    --fetch-timeout=60000)
}

# Whole or not at all: what stands in $folder went through every check.
make() {
  local partial=$folder.partial
  rm -rf "$partial"
  git init --quiet "$partial"
  retry fetch "$partial" ||
    unavailable "Commit $commit of CML cannot be fetched from $repository."
  git -C "$partial" -c advice.detachedHead=false checkout --quiet FETCH_HEAD
  local got
  got=$(git -C "$partial" rev-parse HEAD)
  [[ $got == "$commit" ]] || stop 1 error "$repository gave commit $got instead of $commit."
  [[ -f $partial/package-lock.json && -f $partial/bin/cml.js ]] ||
    stop 2 error "Commit $commit of $repository is not CML: no package-lock.json or bin/cml.js."
  retry install_packages "$partial" ||
    unavailable "The packages of CML cannot be installed by npm."
  rm -rf "$folder"
  mv "$partial" "$folder"
}

# Whether the folder, out of the cache perhaps, holds this commit and starts; sets `version`.
works() {
  [[ $(git -C "$folder" rev-parse HEAD 2> /dev/null) == "$commit" ]] &&
    version=$(ITERATIVE_DO_NOT_TRACK=1 node "$folder/bin/cml.js" --version)
}

# The program: telemetry is off whatever the caller's environment says.
write_program() {
  mkdir -p "$home/bin"
  printf '#!/usr/bin/env bash\nexport ITERATIVE_DO_NOT_TRACK=1\nexec node %q "$@"\n' \
    "$folder/bin/cml.js" > "$home/bin/cml"
  chmod +x "$home/bin/cml"
  echo "$home/bin" >> "$GITHUB_PATH"
}

plan() {
  check_inputs
  {
    echo "folder=$folder"
    echo "path=$home/bin/cml"
    echo "cache-key=trilho-cml-${RUNNER_OS:-}-${RUNNER_ARCH:-}-$commit"
  } >> "$GITHUB_OUTPUT"
}

install() {
  check_inputs
  local program
  for program in git node npm; do
    command -v "$program" > /dev/null || unavailable "CML needs $program, which is not on PATH."
  done
  forget_secrets
  export GIT_TERMINAL_PROMPT=0
  if ! works; then
    make
    works || stop 1 error "CML at commit $commit does not start."
  fi
  write_program
  echo "CML $version at $commit" >&2
}

case ${1:-} in
  plan | install) "$1" ;;
  *) stop 2 error "Expected: setup-cml.sh plan|install" ;;
esac
