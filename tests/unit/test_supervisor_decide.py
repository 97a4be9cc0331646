"""What a supervisor decides, played through with a clock that the test holds."""

import pytest

from netlab.supervisor import decide
from netlab.supervisor.decide import NEVER, Exit, Phase, Step, Task, Verb, Wanted, backoff
from netlab.supervisor.spec import GRACE, PAUSE, Key, Spec

KILLED = Exit(signal=9)


def wanted(pod: str, name: str, *, argv: tuple[str, ...] = ("run",), restart: bool = True, inode: int = 1) -> Wanted:
    return Wanted(Spec(pod, name, f"nl-lab.{pod}", argv, (), "/", restart), inode)


def pod(name: str, *containers: Wanted) -> dict[Key, Wanted]:
    return {entry.spec.key: entry for entry in (wanted(name, PAUSE), *containers)}


class Lab:
    """Carries steps out as the real loop does, on nothing."""

    def __init__(self, want: dict[Key, Wanted]) -> None:
        self.want = want
        self.retired: set[str] = set()
        self.tasks: dict[Key, Task] = {}
        self.now = 0.0
        self.settle()

    def settle(self) -> list[Step]:
        """Do everything that is to be done now and return it."""
        done: list[Step] = []
        while steps := decide.steps(self.want, self.tasks, self.now, self.retired):
            assert len(done) < 1000, "never at rest"
            for step in steps:
                self._do(step)
            done += steps
        return done

    def _do(self, step: Step) -> None:
        match step.verb:
            case Verb.START:
                task = self.tasks.setdefault(step.key, Task(self.want[step.key], Phase.ENDED, self.now))
                decide.begin(task, self.want[step.key], self.now, since=self.now)
            case Verb.RELOAD:
                decide.configure(self.tasks[step.key], self.want[step.key], self.now)
            case Verb.TERMINATE:
                self.tasks[step.key].phase = Phase.STOPPING
                self.tasks[step.key].due = self.now + GRACE
            case Verb.KILL:
                self.tasks[step.key].phase, self.tasks[step.key].due = Phase.STOPPING, NEVER
            case Verb.END:
                task = self.tasks.setdefault(step.key, Task(self.want[step.key], Phase.ENDED, self.now))
                task.phase, task.due = Phase.ENDED, NEVER
            case Verb.FORGET:
                del self.tasks[step.key]

    def dies(self, pod_name: str, name: str, how: Exit = KILLED) -> list[Step]:
        decide.end(self.tasks[pod_name, name], how, self.now, since=self.now)
        return self.settle()

    def phases(self) -> dict[str, str]:
        return {f"{key[0]}/{key[1]}": task.phase.value for key, task in self.tasks.items()}


@pytest.mark.parametrize(
    ("restarts", "delay"), [(0, 0), (1, 10), (2, 20), (3, 40), (4, 80), (5, 160), (6, 300), (7, 300), (10**6, 300)]
)
def test_backoff_is_kubelets(restarts: int, delay: float) -> None:
    assert backoff(restarts, ran_for=1.0) == delay
    assert backoff(restarts, ran_for=600.0) == 0


def test_containers_start_after_their_pause() -> None:
    want = pod("web", wanted("web", "a"), wanted("web", "b"))
    assert decide.steps(want, {}, 0.0) == [Step(Verb.START, ("web", PAUSE))]
    lab = Lab(want)
    assert lab.phases() == {"web/pause": "running", "web/a": "running", "web/b": "running"}
    assert lab.settle() == []


def test_a_container_that_dies_is_restarted_at_once_and_its_neighbours_are_left_alone() -> None:
    lab = Lab(pod("web", wanted("web", "a"), wanted("web", "b")))
    assert lab.dies("web", "a") == [Step(Verb.START, ("web", "a"))]
    assert lab.tasks["web", "a"].restarts == 1
    assert lab.tasks["web", "a"].last_exit == KILLED


def test_a_crash_loop_is_slowed_down() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    waits = []
    for _ in range(8):
        lab.dies("web", "a")
        due = decide.next_due(lab.tasks.values(), lab.now)
        waits.append(0.0 if due == NEVER else due - lab.now)
        lab.now += waits[-1]
        lab.settle()
        assert lab.phases()["web/a"] == "running"
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    lab.now += 600
    assert lab.dies("web", "a") == [Step(Verb.START, ("web", "a"))], "it ran for long: forgiven"
    assert lab.dies("web", "a") == [], "and the loop begins anew"
    assert decide.next_due(lab.tasks.values(), lab.now) == lab.now + 10


def test_without_restart_an_end_is_an_end() -> None:
    lab = Lab(pod("job", wanted("job", "a", restart=False)))
    assert lab.dies("job", "a", Exit(status=3)) == []
    assert lab.phases()["job/a"] == "ended"
    assert decide.next_due(lab.tasks.values(), lab.now) == NEVER


def test_a_pod_is_lost_with_its_pause_and_made_anew_when_asked_again() -> None:
    lab = Lab(pod("web", wanted("web", "a"), wanted("web", "b")) | pod("other", wanted("other", "a")))
    lab.dies("web", "b", Exit(status=1))
    lab.dies("web", "b", Exit(status=1))
    assert lab.phases()["web/b"] == "waiting"
    assert lab.dies("web", PAUSE) == [Step(Verb.END, ("web", "b")), Step(Verb.KILL, ("web", "a"))]
    assert lab.dies("web", "a") == [Step(Verb.END, ("web", "a"))]
    lab.now += 1000
    assert lab.settle() == []
    assert lab.phases() == {
        "web/pause": "ended",
        "web/a": "ended",
        "web/b": "ended",
        "other/pause": "running",
        "other/a": "running",
    }
    decide.revive(lab.tasks)
    assert {step.verb for step in lab.settle()} == {Verb.START}
    assert set(lab.phases().values()) == {"running"}


def test_a_revived_pod_waits_for_what_is_still_dying() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    lab.dies("web", PAUSE)
    decide.revive(lab.tasks)
    assert lab.settle() == [Step(Verb.START, ("web", PAUSE))]
    assert lab.dies("web", "a") == [Step(Verb.START, ("web", "a"))]


def test_a_pause_that_cannot_start_gives_up_its_pod() -> None:
    lab = Lab({})
    lab.want = pod("web", wanted("web", "a"))
    lab.tasks["web", PAUSE] = Task(lab.want["web", PAUSE], Phase.ENDED, 0.0)
    assert lab.settle() == [Step(Verb.END, ("web", "a"))]


def test_what_is_not_wanted_any_more_is_stopped_and_forgotten() -> None:
    lab = Lab(pod("web", wanted("web", "a"), wanted("web", "b")))
    lab.want = pod("web", wanted("web", "b"))
    assert lab.settle() == [Step(Verb.TERMINATE, ("web", "a"))]
    assert lab.dies("web", "a", Exit(signal=15)) == [Step(Verb.FORGET, ("web", "a"))]
    assert lab.phases() == {"web/pause": "running", "web/b": "running"}


def test_a_retired_pod_ends_but_its_pause_and_starts_again_when_it_is_restored() -> None:
    lab = Lab({**pod("web", wanted("web", "a")), **pod("db", wanted("db", "a"))})
    lab.retired = {"web"}
    assert lab.settle() == [Step(Verb.TERMINATE, ("web", "a"))]
    assert lab.dies("web", "a") == []
    assert lab.phases() == {"web/pause": "running", "web/a": "waiting", "db/pause": "running", "db/a": "running"}
    lab.want |= pod("web", wanted("web", "a"), wanted("web", "b"))
    assert lab.settle() == []
    lab.retired = set()
    assert lab.settle() == [Step(Verb.START, ("web", "a")), Step(Verb.START, ("web", "b"))]


def test_a_retired_pod_that_is_no_longer_wanted_is_forgotten() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    lab.retired = {"web"}
    lab.settle()
    lab.dies("web", "a")
    lab.want = {}
    assert lab.settle() == [Step(Verb.FORGET, ("web", "a")), Step(Verb.TERMINATE, ("web", PAUSE))]


def test_what_ignores_sigterm_is_killed_after_the_grace() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    lab.want = pod("web")
    lab.settle()
    assert decide.next_due(lab.tasks.values(), lab.now) == GRACE
    lab.now = GRACE
    assert lab.settle() == [Step(Verb.KILL, ("web", "a"))]
    assert decide.next_due(lab.tasks.values(), lab.now) == NEVER, "nothing to do but wait"


def test_only_what_changed_is_replaced() -> None:
    lab = Lab(pod("web", wanted("web", "a"), wanted("web", "b")))
    lab.want = pod("web", wanted("web", "a", argv=("other",)), wanted("web", "b"))
    assert lab.settle() == [Step(Verb.TERMINATE, ("web", "a"))]
    assert lab.dies("web", "a") == [Step(Verb.FORGET, ("web", "a")), Step(Verb.START, ("web", "a"))]
    assert lab.tasks["web", "a"].restarts == 0


def test_a_change_that_is_taken_back_leaves_nothing_stopped() -> None:
    before = pod("web", wanted("web", "a", restart=False))
    lab = Lab(before)
    lab.want = pod("web")
    lab.settle()
    lab.want = before
    assert lab.dies("web", "a") == [Step(Verb.START, ("web", "a"))]


def test_a_namespace_of_the_same_name_is_another_one() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    lab.want = {key: Wanted(entry.spec, 2) for key, entry in lab.want.items()}
    assert {step.verb for step in lab.settle()} == {Verb.TERMINATE}
    assert lab.dies("web", "a") == [Step(Verb.FORGET, ("web", "a"))], "its pause is not there yet"
    lab.dies("web", PAUSE)
    assert lab.phases() == {"web/pause": "running", "web/a": "running"}


def test_a_timer_that_has_to_wait_for_something_else_does_not_wake_anybody() -> None:
    lab = Lab(pod("web", wanted("web", "a")))
    lab.want = {key: Wanted(entry.spec, 2) for key, entry in lab.want.items()}
    lab.tasks["web", "a"].wanted = lab.want["web", "a"]
    lab.settle()
    lab.dies("web", "a")
    assert lab.phases() == {"web/pause": "stopping", "web/a": "waiting"}
    assert decide.next_due([lab.tasks["web", "a"]], lab.now) == NEVER


# --- daemons of nodes ------------------------------------------------------------------------------------------------


def daemon(node: str, config: str, *, argv: tuple[str, ...] = ("module",), inode: int = 1) -> dict[Key, Wanted]:
    spec = Spec(node, "forwarder", f"nl-lab.{node}", argv, (), "/", restart=True, config=config)
    return {spec.key: Wanted(spec, inode)}


def test_a_daemon_needs_no_pause_and_is_left_alone_when_a_pod_is_lost() -> None:
    lab = Lab(daemon("n1", "a") | pod("web", wanted("web", "a")))
    lab.dies("web", PAUSE)
    assert lab.phases()["n1/forwarder"] == "running"


def test_a_daemon_is_told_of_another_configuration_and_replaced_for_anything_else() -> None:
    lab = Lab(daemon("n1", "a") | daemon("n2", "a"))
    lab.want = daemon("n1", "b") | daemon("n2", "a")
    assert lab.settle() == [Step(Verb.RELOAD, ("n1", "forwarder"))]
    assert lab.settle() == []
    for other in (
        daemon("n1", "b", argv=("another",)),
        daemon("n1", "c", argv=("another",)),
        daemon("n1", "b", inode=2),
    ):
        lab = Lab(daemon("n1", "b"))
        lab.want = other
        assert lab.settle() == [Step(Verb.TERMINATE, ("n1", "forwarder"))]


def test_a_container_that_takes_a_daemons_place_is_no_new_configuration() -> None:
    lab = Lab(daemon("n1", "a"))
    lab.want = {key: entry._replace(spec=entry.spec._replace(config=None)) for key, entry in lab.want.items()}
    assert lab.settle() == [Step(Verb.TERMINATE, ("n1", "forwarder"))]


def test_everybody_waits_for_a_daemon_to_be_ready_but_not_for_ever() -> None:
    lab = Lab(daemon("n1", "a"))
    task = lab.tasks["n1", "forwarder"]
    decide.configure(task, task.wanted, lab.now)
    assert not decide.is_settled(task, lab.now)
    assert decide.next_due([task], lab.now) == decide.READY_TIMEOUT
    assert decide.is_settled(task, decide.READY_TIMEOUT)
    decide.confirm(task, "simple")
    assert decide.is_settled(task, lab.now)
    assert task.said == "simple"
    assert decide.next_due([task], lab.now) == NEVER
    lab.want = daemon("n1", "b")
    lab.settle()
    assert not decide.is_settled(task, lab.now), "it has something to take in"
    lab.dies("n1", "forwarder")
    lab.dies("n1", "forwarder")
    assert decide.is_settled(task, lab.now), "one that waits for its next start is not waited for"
    assert task.said == ""


def test_a_daemon_in_a_crash_loop_is_started_when_asked_again() -> None:
    lab = Lab(daemon("n1", "a") | pod("web", wanted("web", "a")))
    for name in (("n1", "forwarder"), ("web", "a")):
        lab.dies(*name)
        lab.dies(*name)
    assert lab.phases() == {"n1/forwarder": "waiting", "web/pause": "running", "web/a": "waiting"}
    decide.revive(lab.tasks)
    assert lab.settle() == [Step(Verb.START, ("n1", "forwarder"))]
