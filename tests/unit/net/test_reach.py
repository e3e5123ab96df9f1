"""Who is asked whether this peer can be dialled, what follows from the answers, and what it then says of itself."""

from __future__ import annotations

from swarm.net.reach import Answer, Reach, announced_behind, in_words, judge, port_of, whom_to_ask


def test_members_of_this_machine_cannot_tell_and_those_on_the_internet_come_first() -> None:
    known = [
        "/ip4/127.0.0.1/tcp/1/p2p/here",
        "/ip4/192.168.1.5/tcp/1/p2p/near",
        "/ip4/8.8.8.8/tcp/1/p2p/relay/p2p-circuit/p2p/hidden",
        "/ip4/10.0.0.2/tcp/1/p2p/far",
        "/ip4/8.8.4.4/tcp/1/p2p/far",
        "/ip4/8.8.4.5/tcp/1/p2p/ours",
        "/dns4/example.org/tcp/1/p2p/named",
    ]
    assert whom_to_ask(known, "ours") == ["far", "near"]
    assert whom_to_ask(known[:1], "ours") == []


def test_who_sees_us_from_the_internet_knows_better_than_a_neighbour() -> None:
    near = Answer("near", "192.168.1.2", is_reached=True, relays=True)
    far = Answer("far", "8.8.8.8", is_reached=False, relays=False)
    assert judge([near]) == Reach(True, "192.168.1.2")
    assert judge([near, far]) == Reach(False, "8.8.8.8")
    other = Answer("other", "8.8.8.8", is_reached=False, relays=True)
    assert judge([near, far, other]) == Reach(False, "8.8.8.8", "other")
    assert judge([far, Answer("third", "8.8.8.8", is_reached=True, relays=False)]) == Reach(True, "8.8.8.8")


def test_nothing_is_known_where_nobody_can_tell() -> None:
    assert judge([]) == Reach(None)
    assert judge([Answer("a", "", is_reached=False, relays=True)]) == Reach(None)
    assert "nobody" in in_words(Reach(None))


def test_people_hear_of_the_relay_or_what_to_do_without_one() -> None:
    assert in_words(Reach(True, "8.8.8.8")) == "dialled at 8.8.8.8"
    assert "through the relay of other" in in_words(Reach(False, "8.8.8.8", "other"))
    words = in_words(Reach(False, "8.8.8.8"))
    assert words.startswith("[S206]")
    assert "--relay" in words


def test_a_hidden_peer_says_where_it_is_in_its_own_network_and_how_others_get_there() -> None:
    ours = ["/ip4/127.0.0.1/tcp/7/p2p/me", "/ip4/192.168.1.2/tcp/7/p2p/me"]
    known = [
        "/ip4/127.0.0.1/tcp/4001/p2p/relay",
        "/ip4/10.0.0.9/tcp/4001/p2p/relay",
        "/ip4/8.8.8.8/tcp/4001/p2p/relay",
        "/ip4/8.8.4.4/tcp/4001/p2p/other",
    ]
    assert port_of(ours) == 7
    assert announced_behind(ours, "relay", known) == (
        "/ip4/192.168.1.2/tcp/7",
        "/ip4/8.8.8.8/tcp/4001/p2p/relay/p2p-circuit",
    )
    assert announced_behind(ours, "relay", known[:2])[1:] == ("/ip4/10.0.0.9/tcp/4001/p2p/relay/p2p-circuit",)
