from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", required=True, help="where errorlog is served, such as https://errorlog.localhost:8411")
    parser.addoption(
        "--screenshots", type=Path, default=REPOSITORY / ".lab" / "browser", help="where the pictures of the pages go"
    )


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--url").rstrip("/")


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    return request.config.getoption("--screenshots")
