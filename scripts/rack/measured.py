"""One line of a measurement: ours, and beside it the rival's."""


def row(name, value, unit, aim=None, rival_value=None, more_is_better=False):
    """`rival_value`: the same, of the rival; None where it has nothing like it. The ratio says how many times better
    ours is."""
    ratio = None
    if value and rival_value:
        ratio = round(value / rival_value if more_is_better else rival_value / value, 2)
    return {
        "name": name,
        "value": _rounded(value),
        "unit": unit,
        "aim": aim,
        "rival": _rounded(rival_value),
        "ratio": ratio,
    }


def _rounded(value):
    """Three digits: more would promise what one run does not hold."""
    return None if value is None else float(f"{value:.3g}")
