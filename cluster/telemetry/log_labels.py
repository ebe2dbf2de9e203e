"""Fields run and worker in every log record, for a log collector of the cluster.

Ray writes the logs of a run's processes as JSON, one object per line, with all fields of a record
(`ray.LoggingConfig`).
"""

import logging


def label_logs(run: str, worker: str) -> None:
    """Add these two fields to every later log record of this process."""
    make = logging.getLogRecordFactory()

    def labelled(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.run, record.worker = run, worker
        return record

    logging.setLogRecordFactory(labelled)
