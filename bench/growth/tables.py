"""Tables in Markdown."""


def number(value, digits=0):
    return f"{value:,.{digits}f}"


def ratio(value, by):
    return f"{value / by:.2f}" if by else "–"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
