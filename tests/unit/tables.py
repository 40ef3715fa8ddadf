"""Tables in Markdown, and documents with places for them, as the tests of benchmarks/ read and write them."""


def cells(table: list[str], *texts: str) -> dict[str, str]:
    """The one row that has all these texts, by the names of its columns."""
    head = table[0]
    (row,) = [line for line in table[2:] if all(f"| {text} |" in line for text in texts)]
    return dict(zip(*([part.strip() for part in line.split("|")[1:-1]] for line in (head, row)), strict=True))


def marked(*names: str) -> str:
    """Markers around something that is to be replaced."""
    return "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names) + "\nend\n"


def between(text: str, name: str) -> str:
    """What stands between two markers."""
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0].rstrip("\n")
