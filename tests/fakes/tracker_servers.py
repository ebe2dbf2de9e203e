"""Stand-ins of the modules wandb and mlflow, with the rules of their servers that matter here."""

from types import SimpleNamespace


class FakeWandb:
    """W&B: a run is continued by its id; a step that is not above the newest one is dropped."""

    def __init__(self):
        self.runs = {}

    def init(self, *, project, name, id, resume, dir):
        assert (project, resume) == ("irlign", "allow")
        return self.runs.setdefault(id, FakeWandbRun(name, dir))


class FakeWandbRun:
    def __init__(self, name, folder):
        self.name, self.dir = name, folder
        self.config, self.history, self.axes = self, [], {}
        self.settings = {}

    def update(self, settings, *, allow_val_change=False):
        """Refuse a changed setting, as wandb does, unless the caller allows it."""
        for name, value in settings.items():
            if self.settings.get(name, value) != value and not allow_val_change:
                raise ValueError(f"attempted to change value of key {name}")
        self.settings |= settings

    def define_metric(self, name, *, step_metric=None, hidden=False):
        self.axes[name] = step_metric

    def log(self, metrics, step=None):
        newest = self.history[-1]["_step"] if self.history else -1
        if step is None or step > newest:
            self.history.append({**metrics, "_step": newest + 1 if step is None else step})

    def finish(self):
        pass


class FakeMlflow:
    """MLflow: start_run without an id makes a new run; a step may have several values."""

    def __init__(self):
        self.runs, self.names, self.tags = {}, {}, {}
        self._active = None

    def set_experiment(self, name):
        assert name == "irlign"

    def start_run(self, *, run_id, run_name):
        self._active = run_id or f"id-{len(self.runs)}"
        if run_id is None:
            self.runs[self._active], self.names[self._active] = [], run_name
        assert self._active in self.runs, f"Run '{run_id}' not found"
        return SimpleNamespace(info=SimpleNamespace(run_id=self._active))

    def set_tag(self, key, value):
        self.tags[self._active] = (key, value)

    def log_metrics(self, metrics, step):
        self.runs[self._active] += [(step, name, value) for name, value in metrics.items()]

    def end_run(self):
        self._active = None
