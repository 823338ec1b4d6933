"""A running site follows its files: what is on disk when a step begins is what the step goes by."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from helpers.charges import make_charge

from hortus.client.consent.admission import Admission, LiveTerms
from hortus.client.consent.approval import approval, approve_unasked, withdraw
from hortus.client.operate import WarmWorkbench
from hortus.client.preparation import EncodedDataset
from hortus.client.site.folder import Site
from hortus.client.site.reread import Reread
from hortus.learning.loader import Encoded
from hortus.learning.models.folder import model_digest
from hortus.parties.folders import ServerConfig
from hortus.parties.founding import create_consortium
from hortus.privacy.accounting.accountant import epsilon
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.ledger.charges import Added
from hortus.privacy.step import PrivateStep
from hortus.protocol.plan import Contract, Plan
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import DataError, HortusError, Refused, UsageError
from tests.helpers.labelled import texts_of

DELTA = 1e-5
ROWS = "text,label\nAda is ill,a\nBen is ill,b\n"


@pytest.fixture
def contract(plan: Plan) -> Contract:
    task = plan.task.model_copy(update={"labels": ["a", "b"], "text": "text", "label": "label"})
    made = plan.contract(model_digest="a" * 64, noise_multiplier=5.0)
    return made.model_copy(update={"task": task})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "records.csv"
    path.write_text(ROWS)
    return path


@pytest.fixture
def site(tmp_path: Path, data: Path, contract: Contract) -> Iterator[Site]:
    policy = Policy(
        budget=Budget(epsilon=8, delta=DELTA),
        min_cohort=2,
        min_honest=1,
        max_honest_share=1.0,
    )
    server = ServerConfig(aggregation="127.0.0.1:0", superlink="127.0.0.1:0")
    consortium = create_consortium(
        tmp_path / "c", {"ash": data}, {"ash": policy}, server, datetime.now(UTC)
    )
    with Site(consortium.site("ash").directory, lambda: 1.8e9) as opened:
        approve_unasked(opened, contract, "Ada")
        yield opened


def test_a_growing_file_has_one_budget_as_the_patient_of_every_day_has(
    site: Site, data: Path, contract: Contract
) -> None:
    """The finding's five days: it came to ε = 17.9 under a policy that says 8."""
    made = 0
    for day in range(5):
        with Site(site.files.directory, lambda: 1.8e9) as opened:  # the agent is started each day
            dataset = opened.follow(contract).fingerprint
            for _ in range(4):
                charge = make_charge(dataset=dataset, mode="local", step=made)
                try:
                    opened.ledger.charge(charge, opened.policy.budget)
                except Refused:
                    continue
                made += 1
            truth = epsilon({GaussianEvent(1.0, 4.0): made}, DELTA)
            assert opened.ledger.spent(dataset, DELTA) == truth <= 8
        data.write_text(data.read_text() + f"new patient {day},a\n")
    assert epsilon({GaussianEvent(1.0, 4.0): made + 1}, DELTA) > 8 or made == 20
    with Site(site.files.directory, lambda: 1.8e9) as opened:
        assert len(opened.ledger.accounts()) == 1
        assert len(opened.ledger.contents()) > 1


def test_a_deleted_record_is_not_read_again(site: Site, data: Path, contract: Contract) -> None:
    assert texts_of(site.records(contract)) == ("Ada is ill", "Ben is ill")
    data.write_text("text,label\nBen is ill,b\n")
    assert texts_of(site.records(contract)) == ("Ben is ill",)
    before = site.dataset(contract).fingerprint
    data.with_name("new.csv").write_text(ROWS)
    data.with_name("new.csv").replace(data)
    assert texts_of(site.records(contract)) == ("Ada is ill", "Ben is ill")
    assert site.dataset(contract).fingerprint != before


def test_two_writes_within_a_tick_of_the_clock_are_both_seen(
    site: Site, data: Path, contract: Contract
) -> None:
    stamps = data.stat()
    for name in ("Bob", "Cyn", "Dan"):
        data.write_text(ROWS.replace("Ada", name))
        os.utime(data, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
        assert texts_of(site.records(contract))[0] == f"{name} is ill"


def test_a_file_that_has_settled_is_read_once(tmp_path: Path) -> None:
    path, loads = tmp_path / "file", []
    path.write_text("old")
    read = Reread(path, lambda p: loads.append(p) or p.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hortus.client.site.reread.time.time", lambda: path.stat().st_ctime + 3)
        assert [read(), read(), read()] == ["old"] * 3
        assert len(loads) == 1


def test_records_that_do_not_fit_any_more_end_the_step_and_say_no_more_than_that(
    site: Site, data: Path, contract: Contract
) -> None:
    site.records(contract)
    data.write_text("text,label\nAda is ill,zzz\n")
    with pytest.raises(DataError):
        site.records(contract)
    data.unlink()
    with pytest.raises(DataError):
        site.records(contract)


class Terms:
    """The terms of a session, with an eye on what it would compute on."""

    def __init__(self, site: Site, contract: Contract) -> None:
        self.given: list[Encoded] = []
        self._site, self._contract = site, contract
        encoding = PrivateStep.of(contract, 100, contract.cohort.minimum)
        before = EncodedDataset("", None)  # type: ignore[arg-type]
        admission = Admission(site, contract, None, before, encoding, Added.GAUSSIAN)  # type: ignore[arg-type]
        self.live = LiveTerms(admission, self._encode, self.given.append)

    def _encode(self, _: object) -> EncodedDataset:
        dataset = self._site.follow(self._contract)
        return EncodedDataset(dataset.fingerprint, dataset.records)  # type: ignore[arg-type]


def test_each_step_goes_by_the_records_that_are_on_disk(
    site: Site, data: Path, contract: Contract
) -> None:
    terms = Terms(site, contract)
    first = terms.live.renewed()
    data.write_text("text,label\nBen is ill,b\n")
    assert terms.live.now().dataset == first.dataset  # nothing is read for a question
    assert terms.live.renewed().dataset != first.dataset
    assert [texts_of(records)[-1:] for records in terms.given] == [("Ben is ill",)] * 2  # type: ignore[attr-defined]
    assert len(terms.given[1]) == 1  # type: ignore[arg-type]


def test_each_step_goes_by_the_policy_that_is_on_disk(site: Site, contract: Contract) -> None:
    terms = Terms(site, contract)
    assert terms.live.now().budget.epsilon == 8
    smaller = site.policy.budget.model_copy(update={"epsilon": 0.5})
    site.policy.model_copy(update={"budget": smaller}).save(site.files.policy)
    assert terms.live.renewed().budget.epsilon == 0.5
    withdraw(site.ledger, contract.name, "Ada", "a doubt")
    for ask in (terms.live.now, terms.live.renewed):
        with pytest.raises(Refused, match="has withdrawn from the plan"):
            ask()
    site.ledger.record(approval(contract, DELTA, "Ada"))
    assert terms.live.renewed().budget.epsilon == 0.5


def test_a_replaced_model_is_hashed_again_and_not_loaded(
    site: Site, tmp_path: Path, tiny_model: Path, plan: Plan
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    contract = plan.contract(model_digest=model_digest(copy), noise_multiplier=5.0)
    contract = contract.model_copy(update={"model": str(copy)})
    warm = WarmWorkbench(site)
    assert warm(contract) is warm(contract)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    assert site.model_digest(contract) != contract.model_digest
    with pytest.raises(Refused, match="differs from the plan's"):
        warm(contract)


def test_a_model_that_changes_while_it_is_loaded_is_refused(
    site: Site, tmp_path: Path, tiny_model: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    contract = plan.contract(model_digest=model_digest(copy), noise_multiplier=5.0)
    contract = contract.model_copy(update={"model": str(copy)})
    from hortus.client import operate  # noqa: PLC0415 - what is patched

    load = operate.Workbench

    def swapped(contract: Contract, path: Path) -> object:
        (path / "tokenizer_config.json").write_text("{}")
        return load(contract, path)

    monkeypatch.setattr(operate, "Workbench", swapped)
    with pytest.raises(Refused, match="differs from the plan's"):
        WarmWorkbench(site)(contract)


def test_whatever_transformers_could_read_of_a_model_is_in_its_hash(
    tmp_path: Path, tiny_model: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    seen = {model_digest(copy)}
    for name in ("bpe.codes", "chat_template.jinja", "additional_chat_templates/tool.jinja"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
        seen.add(model_digest(copy))
    assert len(seen) == 4
    for name in ("README.md", ".gitattributes", "__pycache__/a.pyc"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
    assert model_digest(copy) in seen
    (copy / "more").symlink_to(tmp_path)
    with pytest.raises(HortusError, match="'more' within it is a link"):
        model_digest(copy)


def test_a_step_on_former_records_is_charged_where_they_belong(
    site: Site, data: Path, contract: Contract
) -> None:
    first = site.follow(contract).fingerprint
    held = site.ledger.reserve(make_charge(dataset=first), site.policy.budget)
    data.write_text(ROWS + "Cyn is ill,a\n")
    second = site.follow(contract).fingerprint
    site.ledger.commit(held)
    charge = replace(make_charge(dataset=second), step=1)
    entry = site.ledger.charge(charge, site.policy.budget)
    assert site.ledger.account_of(second) == site.ledger.account_of(first) == first
    assert entry.body.epsilon_after == epsilon({GaussianEvent(1.0, 4.0): 2}, DELTA)  # type: ignore[union-attr]


def change_config(site: Site, **fields: object) -> None:
    config = yaml.safe_load(site.files.config.read_text()) | fields
    site.files.config.write_text(yaml.safe_dump(config))


def test_a_site_reads_its_own_columns_and_masks_what_identifies(
    site: Site, data: Path, contract: Contract
) -> None:
    """And neither gives anybody in the file a budget that was spent before."""
    pytest.importorskip("presidio_analyzer")
    data.write_text("query,category\nAda is ill,a\nask ben@example.com,b\n")
    change_config(site, columns={"text": "query", "label": "category"})
    with Site(site.files.directory, lambda: 0.0) as plain:
        before = plain.dataset(contract)
    assert texts_of(before.records) == ("Ada is ill", "ask ben@example.com")
    change_config(site, mask_identifiers=True)
    with Site(site.files.directory, lambda: 0.0) as masked:
        after = masked.dataset(contract)
    assert texts_of(after.records) == ("Ada is ill", "ask <EMAIL_ADDRESS>")
    assert after.fingerprint == before.fingerprint


def test_a_site_that_cannot_mask_does_not_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    change_config(site, mask_identifiers={"kind": "presid"})
    with pytest.raises(UsageError, match="no finder of identifiers 'presid'") as caught:
        Site(site.files.directory, lambda: 0.0)
    assert "site.yaml: mask_identifiers" in (caught.value.where or "")
    change_config(site, mask_identifiers=True)
    monkeypatch.delitem(sys.modules, "hortus.learning.data.presidio", raising=False)
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(UsageError, match="not installed") as missing:
        Site(site.files.directory, lambda: 0.0)
    assert "hortus[identifiers]" in str(missing.value)
