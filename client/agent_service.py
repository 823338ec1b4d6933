"""The site agent's local socket, which the Flower relay alone can reach."""

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc

from hortus.client.agent import SiteAgent
from hortus.client.disclosure import loggable
from hortus.client.flower.relay_user import RelayUser
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.protocol.wire import aggregation_pb2_grpc as rpc

logger = logging.getLogger(__name__)
_THREADS = 4
_SOCKET = "agent.sock"
_LONGEST_PATH = 107  # bytes, in sockaddr_un


class _Servicer(rpc.AgentServicer):
    def __init__(self, agent: SiteAgent) -> None:
        self._agent = agent

    def Consider(
        self, request: wire.ConsiderRequest, context: grpc.ServicerContext
    ) -> wire.ConsiderReply:
        with _nothing_told(context):
            return self._agent.consider(request)

    def TakePart(
        self, request: wire.TakePartRequest, context: grpc.ServicerContext
    ) -> wire.TakePartReply:
        with _nothing_told(context):
            return self._agent.take_part(request)


@contextmanager
def _nothing_told(context: grpc.ServicerContext) -> Iterator[None]:
    """Keeps a defect's text, which may quote records, from gRPC's log and from the server."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends here
        logger.error("%s", loggable(error))  # noqa: TRY400 - no traceback
        context.abort(grpc.StatusCode.INTERNAL, "the agent failed; see this site's own log")


@contextmanager
def listening(agent: SiteAgent, directory: Path, user: RelayUser | None = None) -> Iterator[Path]:
    """Answers the relay until the block is left; yields the socket.

    Args:
        agent: Answers.
        directory: A folder that only this user, and the relay's, may enter; the socket is made in
            it, or in a temporary folder like it where its path is too long for a socket's.
        user: Whom the relay runs as; None: this user.
    """
    with ExitStack() as cleanup:
        directory = directory.resolve()
        if len(os.fsencode(directory / _SOCKET)) > _LONGEST_PATH:
            directory = Path(cleanup.enter_context(TemporaryDirectory(prefix="hortus-")))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if user is not None:
            os.chown(directory, -1, user.gid)
        directory.chmod(0o700 if user is None else 0o710)
        socket = directory / _SOCKET
        socket.unlink(missing_ok=True)
        server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="agent"))
        rpc.add_AgentServicer_to_server(_Servicer(agent), server)  # type: ignore[no-untyped-call]
        server.add_insecure_port(f"unix:{socket}")
        previous = os.umask(0o177)
        try:
            server.start()
        finally:
            os.umask(previous)
        if user is not None:
            os.chown(socket, -1, user.gid)
            socket.chmod(0o660)
        try:
            yield socket
        finally:
            server.stop(grace=1.0).wait()
            socket.unlink(missing_ok=True)
