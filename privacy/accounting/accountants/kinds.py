"""The table of accountants."""

from hortus.privacy.accounting.accountants.base import Accountant
from hortus.runtime.registry import Registry

ACCOUNTANTS: Registry[Accountant] = Registry(
    "accountant",
    ("privacy", "accountant"),
    "hortus.accountants",
    {
        "pld": "hortus.privacy.accounting.accountants.pld:PldAccountant",
        "renyi": "hortus.privacy.accounting.accountants.renyi:RenyiAccountant",
    },
    default="pld",
)
