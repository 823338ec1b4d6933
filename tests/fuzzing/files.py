"""Files that a person or another party wrote: plans, policies, rosters, cards, keys, anchors."""

import math
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzzing.mutation import of_bytes, of_json, of_yaml
from fuzzing.parser import Parser, must
from fuzzing.setting import Maker, Setting

from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.folders import ServerConfig, SiteConfig, host_and_port
from hortus.parties.joining import _check_distinct, pin, take_up
from hortus.planning.plan_file import dump_plan, load_plan
from hortus.protocol.certificates import (
    certified_key,
    certify,
    check_request,
    flower_public_key,
    is_certificate_of,
    load_certificate,
)
from hortus.protocol.heads import LedgerHead
from hortus.protocol.identity import (
    Handover,
    Identity,
    Roster,
    load_handovers,
    save_handovers,
)
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Policy
from hortus.runtime.errors import CohortTooSmall
from hortus.server.run.failure import FAILURE, read_failure, write_failure


def _same_again(setting: Setting, load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Whatever loads, saves to a file that loads to the same."""
    again = setting.folder / "again.yaml"

    def checked(path: Path) -> Any:
        value = load(path)
        value.save(again)
        must(load(again) == value, "it is another one when it is written and read again")
        return value

    return checked


def roster(setting: Setting) -> Parser:
    load = _same_again(setting, Roster.load)
    former, present = setting.identity("birch"), Ed25519PrivateKey.generate()
    handover = Handover.make(former, present.public_key().public_bytes_raw(), 0, "0" * 64)
    plain = setting.world.consortium.site("ash").roster.read_bytes()
    path = setting.folder / "handed.yaml"
    key = present.public_key().public_bytes_raw()
    Roster.load(setting.world.consortium.site("ash").roster).with_key(
        "birch", key, (handover,)
    ).save(path)
    seeds = (plain, path.read_bytes())
    return Parser("roster", seeds, of_yaml, setting.read_with(load, "roster.yaml"), 0.6)


def policy(setting: Setting) -> Parser:
    load = _same_again(setting, Policy.load)

    def read(path: Path) -> None:
        budget = load(path).budget
        must(math.isfinite(budget.epsilon) and 0 < budget.delta < 1, "the budget is no number")

    full = {
        "budget": {"epsilon": 8, "delta": 1e-5, "per_plan": 3.0, "unit": "patient"},
        "min_cohort": 3,
    }
    path = setting.folder / "full.yaml"
    Policy.model_validate(full).save(path)
    seeds = (setting.world.consortium.site("ash").policy.read_bytes(), path.read_bytes())
    return Parser("policy.yaml", seeds, of_yaml, setting.read_with(read, "policy.yaml"), 0.6)


def site_config(setting: Setting) -> Parser:
    load = _same_again(setting, SiteConfig.load)
    seed = setting.world.consortium.site("ash").config.read_bytes()
    extra = (
        b"aggregation: 127.0.0.1:9\nanchor: a.json\nmonitoring: '[::1]:9465'\nrelay_user: nobody\n"
    )
    return Parser(
        "site.yaml", (seed, seed + extra), of_yaml, setting.read_with(load, "site.yaml"), 0.6
    )


def server_config(setting: Setting) -> Parser:
    load = _same_again(setting, ServerConfig.load)

    def read(path: Path) -> None:
        config = load(path)
        for address in (config.aggregation, config.superlink):
            host_and_port(config.dialled(address))

    seed = setting.world.consortium.server.config.read_bytes()
    seeds = (seed, seed + b"host: 'fe80::1'\nmonitoring: localhost:9464\n")
    return Parser("server.yaml", seeds, of_yaml, setting.read_with(read, "server.yaml"), 0.6)


def plan(setting: Setting) -> Parser:
    again = setting.folder / "again.yaml"

    def read(path: Path) -> None:
        loaded = load_plan(path)
        again.write_bytes(dump_plan(loaded))
        must(load_plan(again) == loaded, "it is another one when it is written and read again")
        contract = loaded.contract(model_digest="0" * 64, noise_multiplier=1.0)
        known = Contract.model_validate_json(contract.model_dump_json())
        must(known.digest() == contract.digest(), "its contract has another hash when read again")

    return Parser(
        "plan", (setting.plan.read_bytes(),), of_yaml, setting.read_with(read, "p.yaml"), 0.4
    )


def handovers(setting: Setting) -> Parser:
    path, again = setting.folder / "handovers.yaml", setting.folder / "again.yaml"
    handover = Handover.make(setting.identity("ash"), b"k" * 32, 3, "0" * 64)
    save_handovers(path, (handover,))

    def read(path: Path) -> None:
        found = load_handovers(path)
        save_handovers(again, found)
        must(load_handovers(again) == found, "they are others when written and read again")
        for one in found:
            must(not one.is_signed_for("ash") or one == handover, "a forged hand-over")

    seeds = (path.read_bytes(),)
    return Parser("handovers.yaml", seeds, of_yaml, setting.read_with(read, path.name), 0.6)


def cards(setting: Setting) -> Parser:
    """As they come from whoever passed them on: nothing in them can be changed."""
    consortium = setting.world.consortium
    paths = (consortium.site("birch").card("birch"), consortium.server.card)
    honest = [load_card(path) for path in paths]
    now = datetime.now(UTC)

    def read(path: Path) -> None:
        card = load_card(path)
        card.check(now)
        must(card in honest, "a card that was changed on its way")

    seeds = tuple(path.read_bytes() for path in paths)
    return Parser("card, altered", seeds, of_yaml, setting.read_with(read, "c.card.yaml"), 0.4)


def card_of_a_hostile_site(setting: Setting) -> Parser:
    """Signed by a member, with whatever it likes in it, and taken up by the server."""
    consortium, identity = setting.world.consortium, setting.identity("birch")
    now, before = datetime.now(UTC), setting.roster

    def read(path: Path) -> None:
        card = load_card(path)
        if not isinstance(card, SiteCard):
            return
        card = _signed_again(card, identity)
        card.save(path)
        card = load_card(path)
        assert isinstance(card, SiteCard)
        card.check(now)
        after = take_up(before, [card])
        _check_distinct(consortium.server, after, [card])
        certify(consortium.server.authority, card.request, card.site, now)
        others = set(before.sites) - {"birch"}
        must(all(after.sites[s] == before.sites[s] for s in others), "it took another's name")

    seeds = (consortium.site("birch").card("birch").read_bytes(),)
    return Parser("card of a hostile site", seeds, of_yaml, setting.read_with(read, "h.yaml"), 0.2)


def card_of_a_hostile_server(setting: Setting) -> Parser:
    """Signed by the server, with whatever it likes in it, and pinned by a site."""
    world = setting.world
    files, kept, now = world.consortium.site("ash"), setting.folder / "kept", datetime.now(UTC)
    shutil.copytree(files.directory, kept, dirs_exist_ok=True)
    before = Roster.load(files.roster)

    def read(path: Path) -> None:
        card = load_card(path)
        if not isinstance(card, ServerCard):
            return
        card = _signed_again(card, world.server)
        card.save(path)
        card = load_card(path)
        assert isinstance(card, ServerCard)
        pin(files, card, [], now)
        after = Roster.load(files.roster)
        held = files.tls
        shutil.copytree(kept, files.directory, dirs_exist_ok=True)
        must((after.sites, after.server) == (before.sites, before.server), "it changed a key")
        must(
            is_certificate_of(held.certificate.read_bytes(), held.key),
            "its certificate is not the consortium's",
        )
        must(bool(x509.load_pem_x509_certificates(card.authority.encode())), "no authority")

    seeds = (world.consortium.server.card.read_bytes(),)
    return Parser(
        "card of a hostile server", seeds, of_yaml, setting.read_with(read, "s.yaml"), 0.1
    )


def _signed_again(card: Any, identity: Identity) -> Any:
    draft = card.model_copy(update={"identity": identity.public_key_bytes.hex()})
    return draft.model_copy(update={"signature": identity.sign("card", draft._message()).hex()})


def request(setting: Setting) -> Parser:
    path = setting.world.consortium.site("birch").card("birch")
    card = load_card(path)
    assert isinstance(card, SiteCard)
    key = check_request(card.request, "birch")

    def read(data: bytes) -> None:
        text = data.decode(errors="replace")
        must(check_request(text, "birch") == key, "a request that its key has not signed")

    return Parser("certificate request", (card.request.encode(),), of_bytes, read, 0.6)


def certificate(setting: Setting) -> Parser:
    tls = setting.world.consortium.site("ash").tls

    def read(data: bytes) -> None:
        is_certificate_of(data, tls.key)
        certified_key(data, "x")
        _ = load_certificate(data, "x").not_valid_after_utc

    return Parser("certificate", (tls.certificate.read_bytes(),), of_bytes, read, 0.6)


def identity_key(setting: Setting) -> Parser:
    path = setting.world.consortium.site("ash").identity

    def read(path: Path) -> None:
        Identity.load(path, "ash").sign("answer to a contract", b"")

    return Parser(
        "identity.pem", (path.read_bytes(),), of_bytes, setting.read_with(read, "i.pem"), 0.6
    )


def flower_key(setting: Setting) -> Parser:
    seed = setting.world.consortium.site("ash").flower_key.read_bytes()
    read = setting.read_with(flower_public_key, "f.pem")
    return Parser("Flower's private key", (seed,), of_bytes, read, 0.6)


def anchor(setting: Setting) -> Parser:
    identity, path = setting.identity("ash"), setting.folder / "anchor.json"
    honest = LedgerHead.sign(identity, 7, "ab" * 32)
    honest.save(path)

    def read(path: Path) -> None:
        head = LedgerHead.load(path)
        signed = head.is_signed_by(identity.public_key_bytes)
        must(not signed or head == honest, "a forged head")

    return Parser("anchor", (path.read_bytes(),), of_json, setting.read_with(read, path.name))


def failure(setting: Setting) -> Parser:
    directory = setting.folder / "failed"
    write_failure(directory, CohortTooSmall("too few", where="round 1", remedy="Wait."))
    path = directory / FAILURE

    def read(data: bytes) -> None:
        path.write_bytes(data)
        str(read_failure(directory))

    return Parser("failure.json", (path.read_bytes(),), of_json, read)


FILES: tuple[Maker, ...] = (
    plan,
    policy,
    roster,
    site_config,
    server_config,
    handovers,
    cards,
    card_of_a_hostile_site,
    card_of_a_hostile_server,
    request,
    certificate,
    identity_key,
    flower_key,
    anchor,
    failure,
)
