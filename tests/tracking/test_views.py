"""The link to a sweep: it names a view that MLflow's UI keeps, or does without, whatever there is in the way.

tests/browser opens it.
"""

import base64
import http.server
import json
import threading
import zlib
from collections.abc import Iterator

import pytest

from sweepstack.metrics import Direction, Mode
from sweepstack.tracking.objectives import Declared
from sweepstack.tracking.runs_as_rows import Row
from sweepstack.tracking.store import Store
from sweepstack.tracking.ui.views import VIEW_TAG, link

from .test_server_away import free_port


@pytest.fixture(scope="module")
def of_mlflow_3_4() -> Iterator[str]:
    """A server that tells that version, and has nothing else to tell."""

    class Old(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/version"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b"3.4.0" if known else b"")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def row(number: int, sweep: str | None = "sweep", **params: str) -> Row:
    return Row(str(number), f"lr={number}", "1", sweep, "FINISHED", "", "", number, params, {"test/accuracy": 0.5})


def plain(server: str) -> str:
    """The link that says itself what the page is to show."""
    return (
        f"{server}/#/experiments/1/runs?searchFilter=tags.%60sweep%2Fsweep%60%20LIKE%20%27%25%27"
        "&orderByKey=metrics.%60test%2Faccuracy%60&orderByAsc=false&compareRunsMode=CHART&workflowType=machine_learning"
    )


def test_a_server_of_an_older_mlflow_or_none_gets_a_link_that_needs_no_view(of_mlflow_3_4: str) -> None:
    for server in (of_mlflow_3_4, f"http://127.0.0.1:{free_port()}"):
        assert link(Store(server), [row(1, lr="1"), row(2, lr="2")]) == plain(server)


def test_runs_of_no_sweep_have_no_view(store: Store) -> None:
    assert "viewStateShareKey" not in link(store, [row(1, None), row(2, None)])


def test_a_view_grows_with_its_sweep_until_somebody_saves_it_anew(store: Store) -> None:
    experiment = store.experiment_id("train")

    def saved() -> str:
        return store.client.get_experiment(experiment).tags[f"{VIEW_TAG}sweep"]

    first = [row(1, lr="1")]
    second = [*first, row(2, lr="2")]
    assert link(store, first).endswith("?viewStateShareKey=sweep&compareRunsMode=CHART&workflowType=machine_learning")
    of_one = saved()
    assert link(store, second) == link(store, first) == link(store, second)
    of_two = saved()
    assert of_two != of_one
    envelope = json.loads(of_two)
    theirs = json.dumps({key: envelope[key] for key in ("name", "createdAt", "state")})  # as the UI writes it
    store.client.set_experiment_tag(experiment, f"{VIEW_TAG}sweep", theirs)
    assert "viewStateShareKey=sweep" in link(store, first)
    assert saved() == theirs


@pytest.mark.parametrize(
    ("name", "mode", "ascending"), [("rmse", "min", "true"), ("r2", "max", "false"), ("gain", "max", "false")]
)
def test_the_page_has_the_best_run_first_whichever_direction_is_better(
    of_mlflow_3_4: str, name: str, mode: Mode, ascending: str
) -> None:
    declared = Declared(f"val/{name}", {name: Direction(mode)})
    metrics = {f"val/{name}": 0.5, f"test/{name}": 0.6, "test/accuracy": 0.7}
    rows = [Row(str(n), "run", "1", "sweep", "FINISHED", "", "", n, {"lr": str(n)}, metrics, declared) for n in (1, 2)]
    address = link(Store(of_mlflow_3_4), rows)
    assert f"orderByKey=metrics.%60val%2F{name}%60&orderByAsc={ascending}&" in address


def test_a_view_shows_the_metrics_that_select(store: Store) -> None:
    experiment = store.experiment_id("train")
    declared = Declared("val/rmse", {"rmse": Direction("min")})
    metrics = {"val/rmse": 0.5, "test/rmse": 0.6, "val/loss": 0.7}
    rows = [
        Row(str(n), "run", experiment, "sweep", "FINISHED", "", "", n, {"lr": str(n)}, metrics, declared)
        for n in (1, 2)
    ]
    link(store, rows)
    envelope = json.loads(store.client.get_experiment(experiment).tags[f"{VIEW_TAG}sweep"])
    state = json.loads(zlib.decompress(base64.b64decode(envelope["state"].removeprefix("deflate;"))))
    assert state["selectedColumns"] == ["metrics.`val/rmse`", "metrics.`test/rmse`", "params.`lr`"]
    assert state["orderByAsc"] == "true"
