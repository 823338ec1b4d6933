"""A site's half of a session: keys, then steps, each charged to the ledger before it is sent."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from hortus.client.consent.terms import Terms
from hortus.client.pace import Timetable
from hortus.client.site.witness import Witness
from hortus.client.states import ClientState, ClientStates
from hortus.client.trainer import Stopwatch, Trainer
from hortus.client.transfer import download, upload
from hortus.privacy.ledger.decisions import Declined
from hortus.privacy.ledger.holds import Reservation
from hortus.privacy.ledger.store import Ledger
from hortus.privacy.secure_sum.key_exchange import (
    KeyExchange,
    read_announcement,
    read_encapsulation,
)
from hortus.privacy.secure_sum.masks import MaskedVector, MaskGenerator, StepView
from hortus.privacy.secure_sum.transcript import frame, number
from hortus.privacy.step import PrivateStep
from hortus.protocol.descriptor import Descriptor
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.limits import PROTOCOL_VERSION, check_version, checked
from hortus.protocol.privacy import Noise
from hortus.protocol.transport import AggregationChannel
from hortus.protocol.vectors import vector_digest
from hortus.protocol.wire import aggregation_pb2 as wire
from hortus.runtime.errors import ProtocolError, Refused, in_one_line

logger = logging.getLogger(__name__)
_STOPPED = "its operator is stopping it; it can join again"


class Session:
    """One session of one site; `run` takes part until the server or the budget ends it.

    Args:
        identity: Signs this session's keys.
        roster: The pinned keys of the others.
        descriptor: The session, already checked against the contract.
        encoding: The step's numbers.
        trainer: Computes vectors.
        terms: Policy, budget and records, asked before each step.
        ledger: Pays for it.
        channel: To the aggregation service.
        stopwatch: Times a phase; nothing that it measures leaves the site.
        timetable: Says when a vector is sent, however soon it was computed.
        public: What others learn about a failure.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        roster: Roster,
        descriptor: Descriptor,
        encoding: PrivateStep,
        trainer: Trainer,
        terms: Terms,
        ledger: Ledger,
        channel: AggregationChannel,
        stopwatch: Stopwatch,
        timetable: Timetable,
        public: Callable[[BaseException], str],
    ) -> None:
        self._public = public
        self._identity = identity
        self._roster = roster
        self._descriptor = descriptor
        self._encoding = encoding
        self._trainer = trainer
        self._terms = terms
        self._ledger = ledger
        self._witness = Witness(identity, roster, ledger)
        self._channel = channel
        self._stopwatch = stopwatch
        self._timetable = timetable
        contract = encoding.contract
        rounds_left = contract.training.rounds - descriptor.first_round
        self._steps = rounds_left * contract.training.steps_per_round
        self._dataset = ""
        self._start = np.empty(0, np.float32)
        self._start_digest = ""
        self._resend: tuple[int, NDArray[np.int64]] | None = None
        self._states = ClientStates()
        self._stopping = threading.Event()
        self._owes_nothing = threading.Event()
        self._abandoned = threading.Event()

    def stop(self) -> bool:
        """Leaves, from another thread: at once while it waits for its turn, otherwise after its upload.

        Returns:
            Whether it waits: nothing is lost when its connection is closed now.
        """
        self._stopping.set()
        if waits := self._owes_nothing.is_set():
            with suppress(ProtocolError):
                self._leave(_STOPPED)
        return waits

    def abandon(self) -> None:
        """Gives up, from another thread, the vector that is being computed or waits for its time."""
        self._abandoned.set()
        self._trainer.abandon()

    def run(self) -> tuple[int, str]:
        """Takes part; returns the vectors sent, and why it ended."""
        try:
            return self._run()
        except BaseException as error:
            with suppress(ProtocolError):
                self._leave(self._public(error))
            raise

    def _run(self) -> tuple[int, str]:
        with self._stopwatch("keys"):
            masks = self._exchange_keys()
        sent, last = 0, (-1, 0)
        while True:
            refusal = self._reason_to_stop(last[0] + 1)
            self._states.enter(ClientState.READY)
            self._owes_nothing.set()
            # A `stop` before this line has left it to this thread to leave.
            refusal = _STOPPED if self._stopping.is_set() else refusal
            with self._stopwatch("wait"):
                turn = self._say_ready(refusal)
            self._owes_nothing.clear()
            if self._stopping.is_set():
                return sent, self._leave(_STOPPED)
            if turn.WhichOneof("kind") != "go":
                self._states.enter(ClientState.FINISHED)
                return sent, refusal or in_one_line(turn.finished.reason)
            view = self._check(turn.go, last)
            masks.check(view)
            self._states.enter(ClientState.CALLED)
            self._fetch_adapter(view)
            try:
                masked = self._masked_vector(masks, view)
            except Refused as error:
                self._note_refusal(view.step, str(error))
                return sent, self._leave(str(error))
            with self._stopwatch("upload"):
                self._send(masked, view)
            sent, last = sent + 1, (view.step, view.attempt)

    def _say_ready(self, refusal: str) -> wire.Turn:
        """Waits for what comes next; has the ledger's head countersigned."""
        head = self._witness.head()
        request = wire.ReadyRequest(session=self._descriptor.session, refusal=refusal)
        if head is not None:
            shown = wire.Head(seq=head.seq, hash=head.hash, signature=head.signature)
            request.head.CopyFrom(shown)
        turn = checked(self._channel.ready(request))
        self._witness.keep(head, turn)
        return turn

    def _exchange_keys(self) -> MaskGenerator:
        session = self._descriptor.session
        exchange = KeyExchange.announce(
            self._identity, self._roster, self._descriptor.cohort, self._descriptor.digest()
        )
        own = exchange.announcement
        self._states.enter(ClientState.ANNOUNCED)
        everybody = self._channel.announce(
            wire.Announcement(
                protocol=PROTOCOL_VERSION,
                session=session,
                site=own.site,
                x25519=own.x25519,
                mlkem=own.mlkem,
                signature=own.signature,
            )
        )
        check_version(checked(everybody).protocol)
        self._witness.check(everybody)
        sealed = exchange.encapsulate(map(read_announcement, everybody.announcements))
        ciphertexts = self._channel.encapsulate(
            wire.Encapsulations(
                session=session,
                encapsulations=[wire.Encapsulation(**asdict(one)) for one in sealed],
            )
        )
        masks = exchange.agree(
            map(read_encapsulation, checked(ciphertexts).encapsulations),
            min_cohort=self._encoding.contract.cohort.minimum,
            ring_bits=self._descriptor.ring_bits,
        )
        self._states.enter(ClientState.KEYED)
        return masks

    def _reason_to_stop(self, step: int) -> str:
        """Asks before the others count on this site; empty when it can pay for the step."""
        if step >= self._steps or self._resend_is_for(step):
            return ""
        try:
            account = self._terms.now()
            self._dataset = account.dataset
            refusal = account.reason_to_refuse(self._encoding)
        except Refused as error:
            refusal = error.problem
        if refusal:
            self._note_refusal(step, refusal)
        return refusal

    def _note_refusal(self, step: int, reason: str) -> None:
        contract, run = self._descriptor.contract, self._descriptor.run
        round_, _ = self._global_position(step)
        refusal = Declined(contract, run, round_, self._dataset, in_one_line(reason))
        self._ledger.decline(refusal)

    def _check(self, go: wire.Go, last: tuple[int, int]) -> StepView:
        if (go.step, go.attempt) <= last or go.step >= self._steps:
            raise ProtocolError(
                f"the server asked for step {go.step} attempt {go.attempt} after {last}, of "
                f"{self._steps}"
            )
        try:
            adapter_digest = bytes.fromhex(go.adapter_digest)
        except ValueError as error:
            raise ProtocolError("the adapter's hash is not hexadecimal") from error
        return StepView(go.step, go.attempt, tuple(go.survivors), adapter_digest)

    def _fetch_adapter(self, view: StepView) -> None:
        wanted = view.adapter_digest.hex()
        if wanted == self._start_digest:
            return
        with self._stopwatch("download"):
            adapter = download(
                self._channel, self._descriptor.session, wanted, self._descriptor.dimension
            )
        # Extremes are NaN where anything is; a mask of all coordinates would cost a quarter more.
        is_finite = np.isfinite(adapter.min()) and np.isfinite(adapter.max())
        if vector_digest(adapter) != wanted or not is_finite:
            raise ProtocolError("the received adapter is not the announced one, or is not finite")
        self._start, self._start_digest = adapter, wanted

    def _masked_vector(self, masks: MaskGenerator, view: StepView) -> MaskedVector:
        """Reserves, computes, charges and masks: nothing is masked that is not paid for."""
        if self._resend_is_for(view.step) and self._resend is not None:
            vector = self._resend[1]
            self._ledger.record_use(self._descriptor.session, view.step, view.attempt)
        else:
            vector = self._paid_vector(view)
            self._resend = (view.step, vector)
        self._states.enter(ClientState.CHARGED)
        return masks.mask(vector, view)

    def _paid_vector(self, view: StepView) -> NDArray[np.int64]:
        round_, step = self._global_position(view.step)
        norm = self._encoding.clipping_norm(self._start)
        # What follows begins when the server has sent all that it needs: no delay of the server's moves it
        # against the grid. It ends at a public time, whether it succeeds or fails, and the ledger moves then.
        begun = self._timetable.now()
        reservation: Reservation | None = None
        try:
            try:
                # Records and policy may have changed since the site said that it is ready.
                account = self._terms.renewed()
                self._dataset = account.dataset
                charge = account.charge(self._encoding, self._descriptor, round_, view, norm)
                reservation = self._ledger.reserve(charge, account.limit(self._encoding))
                vector = self._trainer.vector(self._start, step, *self._noise_of(view))
            finally:
                self._timetable.keep(begun, self._abandoned)
        except BaseException:
            if reservation is not None:
                self._ledger.cancel(reservation)
            raise
        self._ledger.commit(reservation)
        return vector

    def _noise_of(self, view: StepView) -> tuple[int, bytes]:
        """Returns what a vector's noise depends on: the attempt and what the server said about it.

        A vector that may be sent again is the same in every attempt, whatever this site remembers of them.
        """
        if self._encoding.contract.privacy.noise is Noise.DISTRIBUTED:
            return view.attempt, view.to_bytes()
        return 0, frame(number(view.step), view.adapter_digest)

    def _resend_is_for(self, step: int) -> bool:
        """Whether this vector may be sent again: if it is private alone, it need not be charged again."""
        local = self._encoding.contract.privacy.noise is not Noise.DISTRIBUTED
        return local and self._resend is not None and self._resend[0] == step

    def _global_position(self, step: int) -> tuple[int, int]:
        per_round = self._encoding.contract.training.steps_per_round
        absolute = self._descriptor.first_round * per_round + step
        return absolute // per_round, absolute

    def _send(self, masked: MaskedVector, view: StepView) -> None:
        header = wire.UploadHeader(
            session=self._descriptor.session, step=view.step, attempt=view.attempt
        )
        try:
            upload(self._channel, header, masked, self._states)
        except ProtocolError as error:
            # Refused as late: the others continue without this site, or the session is over.
            logger.warning(
                "the server did not accept step %d attempt %d: %s", view.step, view.attempt, error
            )
            self._states.enter(ClientState.FORGONE)
        else:
            self._states.enter(ClientState.DELIVERED)
            self._ledger.mark_sent(header.session, view.step, view.attempt)

    def _leave(self, reason: str) -> str:
        if self._states.now not in (ClientState.FINISHED, ClientState.LEFT):
            self._states.enter(ClientState.LEFT)
        refusal = in_one_line(reason)
        self._channel.ready(wire.ReadyRequest(session=self._descriptor.session, refusal=refusal))
        return reason
