from benchmarks.serving.models import Place


def describe(place: Place) -> str:
    return ""
