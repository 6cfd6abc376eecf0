"""The summary run of a sweep, which has the report, table and plots of the sweep as artifacts.

It is not a trial: neither tables nor the UI's link to a sweep show it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from sweepstack.config.names import as_value
from sweepstack.errors import StoreError, one_line
from sweepstack.files.scratch import scratch
from sweepstack.tracking.artifacts import local_folder, location
from sweepstack.tracking.private.client import delete_artifacts
from sweepstack.tracking.store import Store, without_collections

SUMMARY_TAG = "sweepstack.summary"
"""The tag with the name of the sweep."""
ABOUT_TAG = "mlflow.note.content"
"""The tag that MLflow's UI shows as the description of a run."""
PLOTS = "plots"
"""The folder of pictures among the artifacts."""


@without_collections()
def record_summary(
    store: Store,
    sweep: str,
    experiment_id: str,
    files: Mapping[str, bytes],
    answer: str = "",
    caution: str = "",
) -> str:
    """Stores files with the summary run of a sweep, and removes those of an earlier report.

    It makes the run if it does not exist yet. If the run has just these files and this description, nothing is written,
    and MLflow is not imported.

    Args:
        store: the store that has the sweep.
        sweep: the name of the sweep.
        experiment_id: the experiment of a new summary run.
        files: the content of each file by its path; pictures are below `plots/`.
        answer: what was found, in words, for the description of the run.
        caution: what a reader must know of that.

    Returns:
        The run's id.

    Raises:
        StoreError: the store does not accept the files.
    """
    about = as_value(_about(sweep, answer, caution))
    try:
        with scratch() as temporary:  # before all else: it removes what killed commands have left
            if (recorded := _recorded(store, sweep, files, about)) is not None:
                return recorded
            run_id = _run_of(store, sweep, experiment_id)
            delete_artifacts(store.client, run_id, PLOTS)
            for name, content in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            store.client.log_artifacts(run_id, str(temporary))
        store.client.set_tag(run_id, ABOUT_TAG, about)
    except Exception as error:  # MLflow does not convert the errors of drivers, sockets and disks
        rule = f"{store.uri} does not take the report ({one_line(error)})"
        raise StoreError(
            rule, remedy="try again when the store can be written to, or leave it out with --no-record"
        ) from error
    return run_id


def _recorded(store: Store, sweep: str, files: Mapping[str, bytes], about: str) -> str | None:
    """Returns the id of a sweep's summary run if it has these files and this description already; else None."""
    if store.tables is None:
        return None
    runs = store.runs(f"tags.`{SUMMARY_TAG}` LIKE '%'")
    known = [run for run in runs if run.data.tags[SUMMARY_TAG] == sweep and run.data.tags.get(ABOUT_TAG) == about]
    if len(known) != 1 or any(run.info.status == "RUNNING" for run in runs):
        return None
    run_id = str(known[0].info.run_id)
    found = location(store, run_id)
    folder = None if found is None else local_folder(found.artifact_uri)
    if folder is None:
        return None
    plots = {path.relative_to(folder).as_posix() for path in (folder / PLOTS).rglob("*") if not path.is_dir()}
    if plots != {name for name in files if name.startswith(f"{PLOTS}/")}:
        return None
    try:
        return run_id if all((folder / name).read_bytes() == content for name, content in files.items()) else None
    except OSError:
        return None


def summary_run(store: Store, sweep: str) -> str | None:
    """Returns the id of a sweep's summary run; None if there is none."""
    found = store.runs(f"tags.`{SUMMARY_TAG}` LIKE '%'")  # not by name: a filter cannot contain every name
    return next((str(run.info.run_id) for run in found if run.data.tags[SUMMARY_TAG] == sweep), None)


def finish_summaries(store: Store) -> None:
    """Ends the summary runs that killed commands have left as RUNNING."""
    for run in store.runs(f"tags.`{SUMMARY_TAG}` LIKE '%' AND attributes.status = 'RUNNING'"):
        store.client.set_terminated(run.info.run_id, "FINISHED", int(time.time() * 1000))


def _run_of(store: Store, sweep: str, experiment_id: str) -> str:
    client = store.client  # before the lock, because making the database needs the lock, too
    with store.writing():
        finish_summaries(store)
        run_id = summary_run(store, sweep)
        if run_id is not None:
            return run_id
        tags = {SUMMARY_TAG: sweep, ABOUT_TAG: _about(sweep)}
        run_id = str(client.create_run(experiment_id, tags=tags, run_name=f"summary of {sweep}").info.run_id)
        client.set_terminated(run_id, "FINISHED", int(time.time() * 1000))
    return run_id


def _about(sweep: str, answer: str = "", caution: str = "") -> str:
    careful = f"Careful: {caution}." if caution else ""
    return " ".join(filter(None, [answer, f"The report of sweep {sweep}, with its tables and plots.", careful]))
