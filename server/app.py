"""The Flower ServerApp of a deployment: opens the aggregation service and runs the round loop.

Flower starts it in a process of its own under the SuperLink; `hortus server` hands it the folders
in the run configuration and follows it through the run's own database.
"""

import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from pydantic import TypeAdapter

from hortus.learning.models.folder import resolve_model
from hortus.learning.warm_model import WarmModel
from hortus.parties.folders import ServerConfig, ServerFiles
from hortus.planning.plan_file import load_plan
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError
from hortus.runtime.names import SERVER
from hortus.runtime.registry import allow_plug_ins
from hortus.runtime.surroundings import out_of_memory
from hortus.server.evaluation import Evaluator
from hortus.server.grid_sites import GridSites
from hortus.server.round_loop import RoundLoop
from hortus.server.run.attendance import AttendanceBook, Stage, watching
from hortus.server.run.failure import write_failure
from hortus.server.run.records import read_contract
from hortus.server.run.store import RunStore
from hortus.server.sums.notary import Notary
from hortus.server.sums.service import Hub, serving

_POLL_SECONDS = 0.5
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs or resumes the run that `hortus server` has prepared."""
    out, home, plan_path = (Path(str(context.run_config[name])) for name in ("out", "home", "plan"))
    nodes = TypeAdapter(dict[int, str]).validate_json(str(context.run_config["nodes"]))
    try:
        run_deployed(grid, out, ServerFiles(home), plan_path, nodes)
    except Exception as error:
        known = error if isinstance(error, HortusError) else out_of_memory(error)
        if known is not None:
            write_failure(out, known)
        raise


def run_deployed(
    grid: Grid, out: Path, files: ServerFiles, plan_path: Path, nodes: Mapping[int, str]
) -> None:
    """Serves the aggregation service and trains until all rounds are done.

    Args:
        grid: Flower's, connected to the SuperLink.
        out: The run's folder with its contract.
        files: The server's folder.
        plan_path: The plan file, for the model's folder and the evaluation records.
        nodes: Whose SuperNode Flower knows by which number.
    """
    allow_plug_ins(None)  # the server has no records; whoever serves a plan has installed its kinds
    contract = read_contract(out)
    plan = load_plan(plan_path)
    roster = Roster.load(files.roster)
    attendance = AttendanceBook(out, roster.sites, time.time, nodes)
    sites = len(roster.sites)
    model_path = resolve_model(contract.model, plan_path.resolve().parent)
    evaluator = Evaluator(WarmModel(contract, model_path), plan.evaluation)
    hub, store = Hub(Notary.open(files, time.time)), RunStore(out, contract)
    address = ServerConfig.load(files.config).aggregation
    with watching(attendance, grid.get_node_ids), serving(hub, files.tls, address, sites):
        attendance.begin(Stage.CONNECTING)
        _await_nodes(grid, sites, contract)
        reached = GridSites(
            grid=grid,
            identity=Identity.load(files.identity, SERVER),
            roster=lambda: Roster.load(files.roster),
            contract=contract,
            store=store,
            hub=hub,
            attendance=attendance,
        )
        RoundLoop(reached, contract, store, evaluator, attendance, lambda _: None).run()


def _await_nodes(grid: Grid, sites: int, contract: Contract) -> None:
    """Waits for every site of the roster, and after the deadline for the minimum cohort alone."""
    deadline = time.monotonic() + contract.cohort.join_deadline
    while len(list(grid.get_node_ids())) < sites and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
