"""The steps of the rail, each over one run folder. Unchanged inputs are recognised, not redone."""

from trilho.pipeline.job import RUN, Done, Job
from trilho.pipeline.judging import all_steps, evaluate, gate
from trilho.pipeline.making import foregone, record_run, train, validate
from trilho.pipeline.publishing import check_lasting, publish, store_candidate
from trilho.pipeline.reporting import report

__all__ = [
    "RUN",
    "Done",
    "Job",
    "all_steps",
    "check_lasting",
    "evaluate",
    "foregone",
    "gate",
    "publish",
    "record_run",
    "report",
    "store_candidate",
    "train",
    "validate",
]
