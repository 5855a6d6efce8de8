"""An address holds all that was chosen on a page, and nothing else."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from starlette.datastructures import QueryParams

from rattle.services.dashboard.source import DashboardError
from rattle.services.dashboard.views import CompareView, ReplayPageView, RunsView, View


@pytest.mark.parametrize(
    "view",
    [
        RunsView(),
        RunsView(q="a&b=ü", column=("x.y", "z"), archived=True, page=3),
        CompareView(run=("a", "b c", "#?"), group=("*",), smooth=0, log_y=True, x="seconds", best="lowest"),
        ReplayPageView(run="r", episode="0-4", agent=2, tick=17, policy="best"),
    ],
)
def test_an_address_restores_its_view(view: View) -> None:
    assert type(view).read(QueryParams(urlsplit(view.url()).query)) == view


def test_an_address_is_short() -> None:
    assert RunsView().url() == "/"
    assert RunsView(q="x").url(q="", page=2) == "/?page=2"


def test_what_is_empty_or_unknown_is_left_out() -> None:
    assert RunsView.read(QueryParams("q=&page=&other=1&column=")) == RunsView()


@pytest.mark.parametrize("query", ["page=0", "page=x", "archived=perhaps", "page=99999999999999999999"])
def test_what_is_wrong_is_named(query: str) -> None:
    with pytest.raises(DashboardError, match=query.partition("=")[0]):
        RunsView.read(QueryParams(query))
