"""Somebody else's repository, which uses Trilho from outside, with its own data and package."""

from __future__ import annotations

import random
from pathlib import Path

from rail import Repository
from wheels import make_wheel

NAME = "acme/churn"
FOLDER = "models/churn"
CUSTOMERS = 1500

PIPELINE = """\
name: churn
registry: ${TRILHO_REGISTRY:-.trilho/registry}
data:
  path: customers.csv
  schema: schema.yaml
  target: left
  positive: 1
  id: customer
model:
  factory: churn.model:build
evaluation:
  resamples: 100
"""

SCHEMA = """\
schema_type: dataframe
api: pandas
strict: true
columns:
  customer: {dtype: int64, unique: true}
  months: {dtype: int64, in_range: {min_value: 0, max_value: 600}}
  calls: {dtype: int64, in_range: {min_value: 0, max_value: 100}}
  left: {dtype: int64, isin: [0, 1]}
"""

MODEL = '''\
"""The model, which needs a package that Trilho's lock does not hold."""

import loyalty  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def build(**params):
    return make_pipeline(StandardScaler(), LogisticRegression(**params))
'''

TEST = """\
import churn.model


def test_it_is_built():
    assert churn.model.build(C=0.5)
"""

WORKFLOW = """\
name: Check
on: pull_request
permissions: {}
jobs:
  rail:
    permissions:
      contents: read
      id-token: write
      pull-requests: write
    uses: octo/trilho/.github/workflows/model-ci.yml@v1
    with:
      working-directory: models/churn
      config: rail.yaml
      source: code
      requirements: needs.txt
      tests: checks
      title: Churn of customers
      artifact-prefix: churn-
    secrets:
      AWS_ACCESS_KEY_ID: ${{ secrets.AWS_ACCESS_KEY_ID }}
      AWS_SECRET_ACCESS_KEY: ${{ secrets.AWS_SECRET_ACCESS_KEY }}

  outcome:
    needs: rail
    runs-on: ubuntu-latest
    steps:
      - name: What the called workflow gave
        id: given
        env:
          VERDICT: ${{ needs.rail.outputs.verdict }}
          CHANGED: ${{ needs.rail.outputs.changed }}
          DIGEST: ${{ needs.rail.outputs.model-digest }}
        run: |
          echo "verdict=$VERDICT" >> "$GITHUB_OUTPUT"
          echo "changed=$CHANGED" >> "$GITHUB_OUTPUT"
          echo "digest=$DIGEST" >> "$GITHUB_OUTPUT"

  single:
    runs-on: ubuntu-latest
    permissions:
      contents: read
    steps:
      - uses: actions/checkout@v7
      - name: Set up
        uses: octo/trilho/.github/actions/setup@v1
        with:
          working-directory: models/churn
          source: code
          requirements: needs.txt
      - name: Validate
        id: validate
        uses: octo/trilho/.github/actions/validate-data@v1
        with:
          working-directory: models/churn
          config: rail.yaml
      - name: Train
        id: train
        uses: octo/trilho/.github/actions/train@v1
        with:
          working-directory: models/churn
          config: rail.yaml
          params: '{"C": 0.5}'
      - name: Report
        id: report
        uses: octo/trilho/.github/actions/report@v1
        with:
          working-directory: models/churn
          config: rail.yaml
          params: '{"C": 0.5}'
          comment: "false"
      - name: Publish
        id: publish
        uses: octo/trilho/.github/actions/publish-model@v1
        with:
          working-directory: models/churn
          config: rail.yaml
          registry: s3://models/single
          params: '{"C": 0.5}'
        env:
          AWS_ACCESS_KEY_ID: ${{ secrets.AWS_ACCESS_KEY_ID }}
          AWS_SECRET_ACCESS_KEY: ${{ secrets.AWS_SECRET_ACCESS_KEY }}
"""


def make(path: Path) -> Repository:
    """Make the repository."""
    folder = path / FOLDER
    files = {
        path / ".github/workflows/check.yml": WORKFLOW,
        path / "README.md": "# What we know of our customers\n",
        folder / "rail.yaml": PIPELINE,
        folder / "schema.yaml": SCHEMA,
        folder / "customers.csv": customers(),
        folder / "needs.txt": "./wheels/loyalty-1.2-py3-none-any.whl\n",
        folder / "code/churn/__init__.py": "",
        folder / "code/churn/model.py": MODEL,
        folder / "checks/test_churn.py": TEST,
    }
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (folder / "wheels").mkdir()
    make_wheel(folder / "wheels", "loyalty", "1.2")
    return Repository.create(path, NAME)


def customers() -> str:
    """Customers who call often, or came lately, are likely to leave."""
    chance = random.Random(7)
    lines = ["customer,months,calls,left\n"]
    for customer in range(1, CUSTOMERS + 1):
        months, calls = chance.randrange(120), chance.randrange(20)
        left = int(chance.random() < 0.1 + 0.5 * (calls / 20) + 0.3 * (1 - months / 120))
        lines.append(f"{customer},{months},{calls},{left}\n")
    return "".join(lines)
