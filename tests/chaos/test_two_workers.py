"""Two searches share a study in PostgreSQL; one is killed and the other does its trial."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import searches
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from searches import CANARIES, LONG, STUDY

from search.dashboard import open_read_only
from search.storage import open_storage
from search.workers import RETRY_OF

PASSWORD = "canary-in-the-url"
"""Of the database that the tests start."""


def trials_of(url: str) -> list[FrozenTrial]:
    """All trials of the study."""
    study = optuna.load_study(study_name=STUDY, storage=open_storage(url, create=False))
    return study.get_trials()


def check_retried(url: str, cut_off: int, finished: int) -> None:
    """The trial that was cut off failed and was done again, once; there are so many finished trials."""
    trials = trials_of(url)
    assert trials[cut_off].state == TrialState.FAIL
    retries = [trial for trial in trials if trial.user_attrs.get(RETRY_OF) == cut_off]
    assert [trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in retries] == [True]
    assert retries[0].params == trials[cut_off].params
    ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == finished
    assert len({tuple(sorted(trial.params.items())) for trial in ended}) == finished
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]


def test_the_dashboards_connection_to_postgresql_cannot_write(postgres: str) -> None:
    optuna.create_study(study_name="shown", storage=open_storage(postgres, create=True))
    storage, number = open_read_only("shown", postgres)
    with pytest.raises(StorageInternalError) as caught:
        storage.delete_study(number)
    assert "read-only transaction" in str(caught.value.__cause__)
    assert "shown" in optuna.get_all_study_names(open_storage(postgres, create=False))


@pytest.mark.engine
@pytest.mark.skipif(not LONG, reason="the long form: make chaos")
def test_a_search_does_the_trial_of_another_one_that_was_killed(
    workplace: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [workplace / "one", workplace / "two"]
    processes = []
    for place in places:
        place.mkdir()
        monkeypatch.chdir(place)
        searches.prepare()
        processes.append(searches.start(3, "--finalists", "0", "--storage", postgres))
    one, two = processes
    try:
        monkeypatch.chdir(places[0])
        assert searches.wait_for(lambda: searches.live(one)[1] == "distill", one, 600), searches.talk()
        cut_off = int(searches.live(one)[0].split()[1])
        assert searches.kill_tree(one) > 0
        monkeypatch.chdir(places[1])
        assert two.wait(900) == 0, searches.talk()
    finally:
        for process in processes:
            searches.kill_tree(process)
    check_retried(postgres, cut_off, 3)
    check_no_password(workplace)


def check_no_password(folder: Path) -> None:
    """Neither the database's password nor any other secret is in a file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        content = path.read_bytes()
        for canary in (PASSWORD, *CANARIES.values()):
            assert canary.encode() not in content, path
