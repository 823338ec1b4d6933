"""`hortus client`."""

import signal
import threading

from hortus.cli.options import LogFormat, SiteFolder
from hortus.runtime.logs import Form, configure_logging


def client(site: SiteFolder, log_format: LogFormat = Form.TEXT) -> None:
    """Run a site, which answers the server until you stop it (Ctrl-C or SIGTERM).

    It then finishes the step in progress and tells the server that it leaves. It logs to standard
    error and to SITE_DIR/logs/agent.log; nothing in either depends on a record.
    """
    from hortus.client.operate import run_site
    from hortus.parties.folders import SiteConfig, SiteFiles

    files = SiteFiles(site)
    SiteConfig.load(files.config)  # before a folder that is not a site's gets a log
    configure_logging(files.log, log_format)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    run_site(site, stopped.is_set)
