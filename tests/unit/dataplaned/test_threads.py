import threading
from concurrent.futures import Future

import pytest
import structlog.testing
import trio
import trio.testing

from dataplaned.threads import Mailbox, open_plain_nursery, run_in_thread, wait_for


class FirstError(Exception):
    pass


class SecondError(Exception):
    pass


async def fail(error):
    raise error


@pytest.mark.trio
async def test_a_function_runs_in_another_thread_and_gives_its_result():
    limiter = trio.CapacityLimiter(1)
    thread = await run_in_thread(threading.current_thread, limiter)
    assert thread is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0, limiter)


@pytest.mark.trio
async def test_a_cancellation_waits_for_a_function_that_has_begun():
    has_begun, may_end = threading.Event(), threading.Event()
    ended = []

    def work():
        has_begun.set()
        may_end.wait(10)
        ended.append(True)
        return "result"

    async def run():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            assert await run_in_thread(work, trio.CapacityLimiter(1)) == "result"

    scopes = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.to_thread.run_sync(has_begun.wait)
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        may_end.set()
    assert ended


@pytest.mark.trio
async def test_a_function_that_has_not_begun_is_cancelled():
    ran = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await run_in_thread(lambda: ran.append(True), trio.CapacityLimiter(1))
    assert scope.cancelled_caught
    assert not ran


@pytest.mark.trio
async def test_a_limiter_bounds_the_threads_of_its_purpose():
    limiter = trio.CapacityLimiter(2)
    at_once = 0
    most = 0
    lock = threading.Lock()

    def work():
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        with lock:
            at_once -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(run_in_thread, work, limiter)
    assert 1 <= most <= 2


@pytest.mark.trio
async def test_what_another_thread_puts_into_a_future_is_waited_for():
    future = Future()
    async with trio.open_nursery() as nursery:
        results = []

        async def wait():
            results.append(await wait_for(future))

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        await trio.to_thread.run_sync(future.set_result, "result")
    assert results == ["result"]


@pytest.mark.trio
async def test_what_is_in_a_future_already_is_given_at_once():
    future = Future()
    future.set_result("result")
    assert await wait_for(future) == "result"


@pytest.mark.trio
async def test_the_error_in_a_future_is_raised():
    future = Future()
    error = FirstError("plain")
    future.set_exception(error)
    with pytest.raises(FirstError) as caught:
        await wait_for(future)
    assert caught.value is error


@pytest.mark.trio
async def test_a_cancellation_waits_for_a_future_and_takes_its_result():
    future = Future()
    results = []

    async def wait():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            results.append(await wait_for(future))

    scopes = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        await trio.to_thread.run_sync(future.set_result, "result")
    assert results == ["result"]
    assert not scopes[0].cancelled_caught


async def run_until_failure(error_of_task=None, error_of_body=None):
    async with open_plain_nursery() as nursery:
        if error_of_task is not None:
            nursery.start_soon(fail, error_of_task)
        nursery.start_soon(trio.sleep_forever)
        if error_of_body is not None:
            raise error_of_body
        await trio.sleep_forever()


@pytest.mark.trio
async def test_a_lone_error_of_a_task_comes_out_plain_with_its_cause():
    error = FirstError("plain")
    error.__cause__ = SecondError("why")
    with pytest.raises(FirstError) as caught:
        await run_until_failure(error_of_task=error)
    assert caught.value is error
    assert isinstance(caught.value.__cause__, SecondError)


@pytest.mark.trio
async def test_a_lone_error_of_the_body_comes_out_plain():
    with pytest.raises(FirstError):
        await run_until_failure(error_of_body=FirstError())


@pytest.mark.trio
async def test_a_lone_error_comes_out_plain_through_several_nurseries():
    async def run():
        async with open_plain_nursery() as outer, trio.open_nursery() as inner:
            inner.start_soon(fail, FirstError())
            outer.start_soon(trio.sleep_forever)

    with pytest.raises(FirstError):
        await run()


@pytest.mark.trio
async def test_of_several_errors_one_comes_out_and_notes_the_others():
    with pytest.raises((FirstError, SecondError)) as caught:
        await run_until_failure(error_of_task=FirstError(), error_of_body=SecondError())
    other = "SecondError" if isinstance(caught.value, FirstError) else "FirstError"
    assert caught.value.__notes__ == [f"at the same time: {other}()"]


@pytest.mark.trio
async def test_a_cancellation_alone_passes_to_its_scope():
    with trio.CancelScope() as scope:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught


# Mailbox.


@pytest.mark.trio
async def test_calls_of_another_thread_are_made_in_their_order_and_for_one_waking():
    mailbox, made, wakings = Mailbox(), [], []
    mailbox.open()
    token = mailbox._token

    class Counted:
        def run_sync_soon(self, function):
            wakings.append(function)
            token.run_sync_soon(function)

    mailbox._token = Counted()

    def post():
        for number in range(100):
            mailbox.post(made.append, number)

    thread = threading.Thread(target=post)
    thread.start()
    thread.join()  # the loop is not asked before all of them are there
    assert made == []
    await trio.testing.wait_all_tasks_blocked()
    assert made == list(range(100))
    assert len(wakings) == 1


@pytest.mark.trio
async def test_a_call_posted_by_a_call_is_made():
    mailbox, made = Mailbox(), []
    mailbox.open()

    def again(number):
        made.append(number)
        if number < 5:
            mailbox.post(again, number + 1)

    mailbox.post(again, 0)
    await trio.testing.wait_all_tasks_blocked()
    assert made == list(range(6))
    mailbox.post(again, 5)
    await trio.testing.wait_all_tasks_blocked()
    assert made[-1] == 5


@pytest.mark.trio
async def test_a_posted_call_that_fails_is_logged_and_no_more():
    mailbox, made = Mailbox(), []
    mailbox.open()
    with structlog.testing.capture_logs() as logs:
        mailbox.post(lambda _: 1 / 0, None)
        mailbox.post(made.append, 1)
        await trio.testing.wait_all_tasks_blocked()
    assert made == [1]
    assert [line["event"] for line in logs] == ["posted_call_failed"]


def test_calls_after_the_loop_has_ended_are_not_made():
    mailbox, made = Mailbox(), []

    async def main():
        mailbox.open()

    trio.run(main)
    mailbox.post(made.append, 1)
    mailbox.post(made.append, 2)
    assert made == []
