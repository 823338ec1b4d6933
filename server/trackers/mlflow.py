"""MLflow: a run in a file store of its own, or on the tracking server that the operator names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from hortus.server.trackers.base import Log, Tracked, Tracker

_TAG = "hortus.run"
_LONGEST = 500  # characters of a parameter's value
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


class MLflow(Tracker):
    """`mlflow`: a run of an experiment."""

    client: ClassVar[str] = "mlflow"

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = Field(
        None,
        description="MLflow's tracking URI, such as `http://127.0.0.1:5000`; none: files in `tracking/mlflow` of the "
        "run's folder.",
    )
    experiment: str = Field("hortus", min_length=1, description="Name of the experiment.")

    def open(self, tracked: Tracked) -> Log:
        """See `Tracker`."""
        os.environ.update(_QUIET)
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri or tracked.folder.resolve().as_uri())
        known = client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else client.create_experiment(self.experiment)
        earlier = client.search_runs([experiment], f"tags.`{_TAG}` = '{tracked.run}'")
        if earlier:
            return _Log(client, earlier[0].info.run_id)
        run = client.create_run(experiment, run_name=tracked.name, tags={_TAG: tracked.run})
        for name, value in tracked.parameters.items():
            client.log_param(run.info.run_id, name, value[:_LONGEST])
        return _Log(client, run.info.run_id)


class _Log:
    def __init__(self, client: Any, run: str) -> None:  # noqa: ANN401 - it has no types
        self._client = client
        self._run = run

    def add(self, number: int, values: Mapping[str, float]) -> None:
        """Adds metrics; their time is the round's number, since how long a round takes depends on records."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, timestamp=number, step=number)

    def close(self) -> None:
        """See `Log`."""
        self._client.set_terminated(self._run)
