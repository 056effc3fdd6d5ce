"""`trilho score` from S3 to S3, and with S3 away at the worst moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import served
from served import ROW, expected

from trilho import bundle
from trilho.errors import UnavailableError, UsageError
from trilho.scoring import run, score
from trilho.serving import predictor
from trilho.serving.predictor import Predictor
from trilho.storage import aws

ROWS = 100


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Predictor:
    monkeypatch.chdir(tmp_path)
    served.make_bundle(tmp_path / "bundle")
    return predictor.load(tmp_path / "bundle", *bundle.verify(tmp_path / "bundle"), version=None)


@pytest.fixture
def data(ministack: str, bucket: str) -> str:
    lines = [f"{ROW['city']},{i},{ROW['income']},true,{ROW['joined']}" for i in range(ROWS)]
    body = "\n".join(["city,age,income,married,joined", *lines]).encode()
    aws.client("s3").put_object(Bucket=bucket, Key="data/in.csv", Body=body)
    return f"s3://{bucket}/data/in.csv"


def predictions(bucket: str) -> list[float]:
    body = aws.client("s3").get_object(Bucket=bucket, Key="some/out.csv")["Body"].read()
    head, *lines = body.decode().splitlines()
    assert head == "prediction,decision"
    return [float(line.split(",")[0]) for line in lines]


WANTED = [expected({**ROW, "age": i}) for i in range(ROWS)]


def test_scores_from_s3_to_s3(model: Predictor, data: str, bucket: str) -> None:
    target = f"s3://{bucket}/some/out.csv"
    assert score(model, data, target, chunk=30).rows == ROWS
    assert predictions(bucket) == pytest.approx(WANTED, abs=1e-12)
    assert not any(Path(".trilho/score").iterdir())
    with pytest.raises(UsageError, match="exists already"):
        score(model, data, target)
    aws.client("s3").put_object(Bucket=bucket, Key="some/out.csv", Body=b"older")
    score(model, data, target, overwrite=True)
    assert predictions(bucket) == pytest.approx(WANTED, abs=1e-12)


def test_what_is_done_is_not_lost_when_s3_goes_away_before_the_end(
    model: Predictor, data: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"s3://{bucket}/some/out.csv"

    class Away:
        def exists(self, _: str) -> bool:
            return False

        def upload_once(self, *_: object) -> None:
            raise UnavailableError("Cannot write: nobody there.")

    with monkeypatch.context() as patch:
        patch.setattr(run, "open_store", lambda _: Away())
        with pytest.raises(UnavailableError):
            score(model, data, target, chunk=30)
    found = aws.client("s3").list_objects_v2(Bucket=bucket, Prefix="some/")
    assert found["KeyCount"] == 0
    assert score(model, data, target, chunk=30).resumed_rows == ROWS
    assert predictions(bucket) == pytest.approx(WANTED, abs=1e-12)
