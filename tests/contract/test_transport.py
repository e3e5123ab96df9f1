"""One suite for every transport: what the endpoint promises holds on libp2p and on the network in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from swarm.admission import Revoked, seal
from swarm.errors import AdmissionError, MembershipRevoked, PeerUnavailable, ProtocolError, SwarmError
from swarm.identity import Identity
from swarm.net.channel import CREDIT_BYTES, Delivery, Reply
from swarm.net.endpoint import Endpoint
from swarm.net.transport import CONTROL, TENSORS
from swarm.wire import frames
from swarm.wire.messages import PROTOCOL_VERSION, Ack, Activation, Heartbeat, Hello, Lease, SpeedProbe, Work
from tests.support.net import FINGERPRINT, SHAPE, Net
from tests.support.runs import heartbeat

PAYLOAD = bytes(range(256)) * 4


def activation(number: int, owner: str, host: str) -> Activation:
    return Activation(
        plan=1, work=Work(0, Lease(number, 0), 0), stage=0, owner=owner, route=(host,), codec="fp32", shape=SHAPE
    )


def test_requests_are_answered_and_the_caller_is_authenticated(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(("owner",)), await net.endpoint()
        seen: list[Delivery] = []

        async def answer(delivery: Delivery) -> Reply:
            seen.append(delivery)
            return Reply(heartbeat(len(seen), "reply"))

        b.on_request(Heartbeat, answer)
        replies = await asyncio.gather(*(a.request(b.peer_id, heartbeat(i, str(i))) for i in range(50)))
        assert sorted(message.computed_tokens for message, _ in replies) == list(range(1, 51))
        assert {delivery.remote_id for delivery in seen} == {a.peer_id}
        assert {delivery.roles for delivery in seen} == {("owner",)}

    run(body)


def test_frames_arrive_whole_and_in_order(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        numbers: list[int] = []
        finished = asyncio.Event()

        def take(delivery: Delivery) -> None:
            assert isinstance(delivery.message, Activation)
            assert delivery.payload == PAYLOAD
            numbers.append(delivery.message.work.lease.number)
            delivery.release()
            if len(numbers) == 200:
                finished.set()

        b.on_frame(Activation, take)
        for number in range(200):
            await a.send(b.peer_id, activation(number, a.peer_id, b.peer_id), PAYLOAD)
        await finished.wait()
        assert numbers == list(range(200))

    run(body)


def test_a_slow_consumer_stops_its_producer(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        probe = bytes(8 << 20)
        room = CREDIT_BYTES // len(probe)
        held: list[Delivery] = []
        full, everything = asyncio.Event(), asyncio.Event()

        def hold(delivery: Delivery) -> None:
            held.append(delivery)
            if len(held) == room:
                full.set()
            if full.is_set() and released:
                delivery.release()
            if len(held) == 12:
                everything.set()

        released = False
        b.on_frame(SpeedProbe, hold)

        async def produce() -> None:
            for _ in range(12):
                await a.send(b.peer_id, SpeedProbe(), probe)

        producer = asyncio.create_task(produce())
        await full.wait()
        channel = await a.channel(b.peer_id, TENSORS)
        assert not producer.done()
        assert channel.outstanding_bytes <= CREDIT_BYTES
        assert len(held) == room
        released = True
        for delivery in held[:room]:
            delivery.release()
        await producer
        await everything.wait()

    run(body)


def test_a_revoked_member_is_shown_the_admins_word(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        b.membership.revoke(seal(net.admin, Revoked(fingerprint=FINGERPRINT, peers=(a.peer_id,))))
        with pytest.raises(MembershipRevoked):
            await a.request(b.peer_id, heartbeat(0))
        assert a.peer_id in a.membership.revoked

    run(body)


def test_nobody_but_the_admin_sends_a_member_away(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        forged = seal(Identity.generate(), Revoked(fingerprint=FINGERPRINT, peers=(a.peer_id,)))
        b.membership._revoked[a.peer_id] = forged
        with pytest.raises(ProtocolError, match="not this run's admin's"):
            await a.request(b.peer_id, heartbeat(0))
        assert not a.membership.revoked

    run(body)


def test_a_stranger_gets_no_answer(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        stranger, b = await net.endpoint(()), await net.endpoint()
        b.on_request(Heartbeat, _ack)
        with pytest.raises(PeerUnavailable):
            await stranger.request(b.peer_id, heartbeat(0))
        assert b.refused == 1

    run(body)


def test_another_members_certificate_does_not_help(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        member, thief, b = await net.endpoint(), await net.endpoint(()), await net.endpoint()
        b.on_request(Heartbeat, _ack)
        thief.certificate = member.certificate
        with pytest.raises(PeerUnavailable):
            await thief.request(b.peer_id, heartbeat(0))
        assert b.refused == 1

    run(body)


def test_another_protocol_version_is_told_both_values(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()

        def hello(endpoint: Endpoint) -> Hello:
            version = 99 if endpoint is a else PROTOCOL_VERSION
            return Hello(version=version, fingerprint=FINGERPRINT, certificate=endpoint.certificate)

        monkeypatch.setattr(Endpoint, "_hello", hello)
        with pytest.raises(SwarmError, match=rf"S304.*version 99.*{PROTOCOL_VERSION}"):
            await a.request(b.peer_id, heartbeat(0))

    run(body)


def test_a_role_is_required_where_one_is_named(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(("host",)), await net.endpoint()
        b.on_request(Heartbeat, _ack, role="scheduler")
        with pytest.raises(SwarmError, match="S303"):
            await a.request(b.peer_id, heartbeat(0))

    run(body)


def test_a_wrong_tensor_is_refused_before_it_is_read(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        b.on_frame(Activation, lambda delivery: pytest.fail("the frame was let in"))
        channel = await a.channel(b.peer_id, CONTROL)
        await channel.send(activation(0, a.peer_id, b.peer_id), PAYLOAD[:-1])
        await channel.closed.wait()
        assert b.refused == 1

    run(body)


def test_a_declared_size_beyond_the_cap_allocates_nothing(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        channel = await a.channel(b.peer_id, CONTROL)
        channel._stream.write(frames._PREFIX.pack(100, 2**40))
        await channel.closed.wait()
        assert b.refused == 1

    run(body)


def test_a_broken_stream_fails_what_was_pending_and_is_opened_again(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a, b = await net.endpoint(), await net.endpoint()
        reached = asyncio.Event()

        async def never(delivery: Delivery) -> Reply:
            reached.set()
            await asyncio.Event().wait()
            raise AssertionError

        b.on_request(Heartbeat, never)
        b.on_request(SpeedProbe, _ack)
        pending = asyncio.create_task(a.request(b.peer_id, heartbeat(0)))
        await reached.wait()
        (await a.channel(b.peer_id)).abort()
        with pytest.raises(PeerUnavailable):
            await pending
        reply, _ = await a.request(b.peer_id, SpeedProbe())
        assert isinstance(reply, Ack)

    run(body)


def test_an_unreachable_peer_is_an_error(run: Callable[..., None]) -> None:
    async def body(net: Net) -> None:
        a = await net.endpoint()
        with pytest.raises(PeerUnavailable):
            await a.request(Identity.generate().peer_id, SpeedProbe())

    run(body)


def test_streams_that_break_lose_nothing_silently() -> None:
    """Loss on the network in memory: a request either has its reply or an error."""

    async def main(folder: Path) -> None:
        net = Net("memory", folder)
        a, b = await net.endpoint(), await net.endpoint()
        b.on_request(Heartbeat, _echo)
        net.memory.break_probability = 0.05
        outcomes = {"reply": 0, "error": 0}
        for number in range(300):
            try:
                reply, _ = await a.request(b.peer_id, heartbeat(number))
            except (PeerUnavailable, AdmissionError):
                outcomes["error"] += 1
            else:
                assert reply.computed_tokens == number
                outcomes["reply"] += 1
        assert net.memory.broken > 5
        assert outcomes["reply"] > 200
        assert outcomes["error"] > 0
        for endpoint in net.endpoints:
            await endpoint.close()

    asyncio.run(main(Path()))


async def _ack(delivery: Delivery) -> Reply:
    return Reply(Ack())


async def _echo(delivery: Delivery) -> Reply:
    return Reply(delivery.message)
