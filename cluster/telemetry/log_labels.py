"""Log lines that say which run and worker they are of, for whoever gathers the logs of a cluster.

Ray writes the logs of a run's processes as JSON, one object a line, with whatever fields a record
has (`ray.LoggingConfig`).
"""

import logging


def label_logs(run: str, worker: str) -> None:
    """Give every later log record of this process these two fields."""
    make = logging.getLogRecordFactory()

    def labelled(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.run, record.worker = run, worker
        return record

    logging.setLogRecordFactory(labelled)
