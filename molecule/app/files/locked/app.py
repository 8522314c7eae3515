"""An app that tells which packages it was built with."""

from importlib.metadata import distributions


def app(_environ, start_response):
    """Answer with what a lock names."""
    names = {"itsdangerous", "iniconfig"}
    found = sorted(f"{one.name} {one.version}" for one in distributions() if one.name in names)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(found).encode()]
