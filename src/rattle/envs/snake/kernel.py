"""The compiled rules of Snake for a batch of worlds; `reference.py` says the same in plain words.

A cell is a number, y * width + x. A board is stored with a margin of `vision_radius` cells on every side that repeats
the opposite edge, so that what a snake sees is one table of flat offsets from its head, without a wrap; `Tables.copies`
says where a cell is in it. A body is a ring of cells. A place on the board holds 0 empty, 1 food, 2 + 2s body of
snake s, 3 + 2s head of snake s; in a world of one snake its head is stored as body too, because it is never seen as
anything else, and observing is then a plain copy.

All arrays are flat and addressed by hand: slices would cost atomic reference counts in the innermost loops.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from rattle.envs.compiled import compiled
from rattle.envs.philox import philox
from rattle.envs.snake.settings import START_LENGTH

FOOD = 1
FIRST_BODY = 2

WORLD_DTYPE = np.dtype([("episode", np.uint32), ("draws", np.uint32), ("tick", np.int32), ("food", np.int32)])
AGENT_DTYPE = np.dtype(
    [
        ("head", np.int32),  # the cell of its head
        ("heading", np.int32),
        ("length", np.int32),
        ("ring_head", np.int32),  # where in its ring the head's cell stands
        ("hunger", np.int32),
        ("food_eaten", np.int32),
        ("alive", np.int32),
        # What the tick in progress decides, before deaths are judged.
        ("ate", np.int32),
        ("dies", np.int32),
    ]
)


class Rules(NamedTuple):
    """The settings of a batch as the kernel takes them."""

    cells: int
    num_snakes: int
    food: int
    starve_after: int
    max_steps: int
    ends_with_any: bool
    reward_alive: float
    reward_food: float
    reward_death: float
    key_low: np.uint64
    key_high: np.uint64
    first_world: np.uint64


class Tables(NamedTuple):
    """What the kernel looks up instead of computing."""

    ahead: NDArray[np.int32]  # (4, cells): the next cell in each heading
    copies: NDArray[np.int32]  # (cells, copies): where a cell stands on the padded board; the first is inside
    corner: NDArray[np.uint32]  # (cells,): the north-west corner of the window around each cell, on the padded board
    offsets: NDArray[np.uint32]  # (4, visible): from that corner to the visible cells, for each heading
    seen_as: NDArray[np.uint8]  # (snakes, codes): what a board code is to each viewer


class BoardState(NamedTuple):
    """The state of W worlds of A snakes; this and the settings decide everything that follows."""

    world: NDArray[np.void]  # (W,) WORLD_DTYPE
    agent: NDArray[np.void]  # (W * A,) AGENT_DTYPE
    board: NDArray[np.uint8]  # (W, padded cells)
    ring: NDArray[np.uint16]  # (W * A, cells): a body, going back from ring_head


class Outputs(NamedTuple):
    """What a step hands out, one row a slot."""

    observation: NDArray[np.uint8]  # (B, visible)
    reward: NDArray[np.float32]  # (B,)
    terminated: NDArray[np.bool_]  # (B,)
    truncated: NDArray[np.bool_]  # (B,)
    active: NDArray[np.bool_]  # (B,)
    final_observation: NDArray[np.uint8]  # (B, visible): rows of slots that have just ended
    final_food: NDArray[np.int32]  # (B,): food eaten in the episode that has just ended, 0 elsewhere


_inline = njit(inline="always")


@_inline
def _draw_below(n, world, world_id, rules):
    """Draw uniformly from 0..n-1; see `reference.WorldRandom.below`."""
    limit = uint64(n)
    threshold = (uint64(1 << 32) - limit) % limit
    while True:
        word, _, _, _ = philox(
            uint64(world.draws),
            uint64(world.episode),
            world_id & uint64(0xFFFFFFFF),
            world_id >> uint64(32),
            rules.key_low,
            rules.key_high,
        )
        world.draws += np.uint32(1)
        product = word * limit
        if product & uint64(0xFFFFFFFF) >= threshold:
            return np.int64(product >> uint64(32))


@_inline
def _put(board, w, cell, code, tables):
    """Write a cell and its copies in the margin."""
    for copy in range(tables.copies.shape[1]):
        board[w, tables.copies[cell, copy]] = code


@_inline
def _get(board, w, cell, tables):
    return board[w, tables.copies[cell, 0]]


@_inline
def _body_code(snake):
    return np.uint8(FIRST_BODY + 2 * snake)


@_inline
def _head_code(snake, rules):
    return np.uint8(FIRST_BODY) if rules.num_snakes == 1 else np.uint8(FIRST_BODY + 1 + 2 * snake)


@_inline
def _segment(agent, ring, slot, back):
    """Return the cell that lies `back` segments behind the head of the ring."""
    place = agent.ring_head - back
    if place < 0:
        place += ring.shape[1]
    return np.int64(ring[slot, place])


@compiled
def _restock_food(w, worlds, rules, tables):
    """Put missing food on empty cells; False when no empty cell is left for it."""
    world = worlds.world[w]
    board = worlds.board
    world_id = rules.first_world + uint64(w)
    while world.food < rules.food:
        empty = 0
        for cell in range(rules.cells):
            empty += _get(board, w, cell, tables) == 0
        if empty == 0:
            return False
        wanted = _draw_below(empty, world, world_id, rules)
        for cell in range(rules.cells):
            if _get(board, w, cell, tables) == 0:
                if wanted == 0:
                    _put(board, w, cell, np.uint8(FOOD), tables)
                    break
                wanted -= 1
        world.food += 1
    return True


@_inline
def _can_start(w, snake, cell, heading, worlds, rules, tables):
    """Whether a straight snake fits here, faces no body, and covers no cell that an earlier snake faces."""
    if _get(worlds.board, w, tables.ahead[heading, cell], tables) != 0:
        return False
    for _ in range(START_LENGTH):
        if _get(worlds.board, w, cell, tables) != 0:
            return False
        for earlier in range(w * rules.num_snakes, w * rules.num_snakes + snake):
            other = worlds.agent[earlier]
            if tables.ahead[other.heading, other.head] == cell:
                return False
        cell = tables.ahead[(heading + 2) % 4, cell]
    return True


@compiled
def _start_episode(w, worlds, rules, tables):
    """Lay out the world for the episode that its record names."""
    world = worlds.world[w]
    world_id = rules.first_world + uint64(w)
    worlds.board[w, :] = 0
    world.draws = 0
    world.tick = 0
    world.food = 0
    for snake in range(rules.num_snakes):
        while True:
            way = _draw_below(4 * rules.cells, world, world_id, rules)
            heading = way % 4
            cell = way // 4
            if _can_start(w, snake, cell, heading, worlds, rules, tables):
                break
        slot = w * rules.num_snakes + snake
        agent = worlds.agent[slot]
        agent.head = cell
        agent.heading = heading
        agent.length = START_LENGTH
        agent.ring_head = START_LENGTH - 1
        agent.hunger = 0
        agent.food_eaten = 0
        agent.alive = 1
        for segment in range(START_LENGTH):
            worlds.ring[slot, START_LENGTH - 1 - segment] = cell
            code = _head_code(snake, rules) if segment == 0 else _body_code(snake)
            _put(worlds.board, w, cell, code, tables)
            cell = tables.ahead[(heading + 2) % 4, cell]
    _restock_food(w, worlds, rules, tables)


@_inline
def _observe(w, worlds, rules, tables, observation):
    """Write what every snake of a world sees; the dead see nothing."""
    visible = observation.shape[1]
    for snake in range(rules.num_snakes):
        slot = w * rules.num_snakes + snake
        agent = worlds.agent[slot]
        if agent.alive == 0:
            for k in range(visible):
                observation[slot, k] = 0
            continue
        # Unsigned indices spare the test for negative ones that signed indices bring into the loop.
        corner = uint64(tables.corner[agent.head])
        heading = uint64(agent.heading)
        if rules.num_snakes == 1:
            for k in range(visible):
                observation[slot, k] = worlds.board[w, corner + uint64(tables.offsets[heading, k])]
        else:
            for k in range(visible):
                seen = worlds.board[w, corner + uint64(tables.offsets[heading, k])]
                observation[slot, k] = tables.seen_as[snake, uint64(seen)]


@_inline
def _move(w, worlds, action, rules, tables):
    """Turn and advance every living snake, let it eat, and take its tail off the board where it did not."""
    board = worlds.board
    first = w * rules.num_snakes
    for slot in range(first, first + rules.num_snakes):
        agent = worlds.agent[slot]
        if agent.alive:
            turn = 3 if action[slot] == 2 else action[slot]
            agent.heading = (agent.heading + turn) & 3
            agent.head = tables.ahead[agent.heading, agent.head]
            agent.ate = _get(board, w, agent.head, tables) == FOOD
    for slot in range(first, first + rules.num_snakes):
        agent = worlds.agent[slot]
        if not agent.alive:
            continue
        if agent.ate:
            if _get(board, w, agent.head, tables) == FOOD:  # two heads may reach it at once: it is one item
                _put(board, w, agent.head, np.uint8(0), tables)
                worlds.world[w].food -= 1
            agent.hunger = 0
            agent.food_eaten += 1
        else:
            agent.hunger += 1
            tail = _segment(agent, worlds.ring, slot, agent.length - 1)
            _put(board, w, tail, np.uint8(0), tables)
            agent.length -= 1


@_inline
def _judge(w, worlds, rules, tables):
    """Decide who dies, all at once: nothing that the decision reads changes here."""
    first = w * rules.num_snakes
    for slot in range(first, first + rules.num_snakes):
        agent = worlds.agent[slot]
        if not agent.alive:
            continue
        dies = _get(worlds.board, w, agent.head, tables) >= FIRST_BODY
        dies |= 0 < rules.starve_after <= agent.hunger
        for rival in range(first, first + rules.num_snakes):
            other = worlds.agent[rival]
            dies |= rival != slot and other.alive != 0 and other.head == agent.head
        agent.dies = dies


@_inline
def _settle(w, worlds, rules, tables):
    """Take the dead off the board, then put the heads of the living where they have moved; count the living."""
    living = 0
    board = worlds.board
    ring = worlds.ring
    first = w * rules.num_snakes
    for slot in range(first, first + rules.num_snakes):
        agent = worlds.agent[slot]
        if agent.alive and agent.dies:
            agent.alive = 0
            for back in range(agent.length):
                _put(board, w, _segment(agent, ring, slot, back), np.uint8(0), tables)
    for snake in range(rules.num_snakes):
        slot = first + snake
        agent = worlds.agent[slot]
        if not agent.alive:
            continue
        living += 1
        if rules.num_snakes > 1:
            _put(board, w, _segment(agent, ring, slot, 0), _body_code(snake), tables)
        _put(board, w, agent.head, _head_code(snake, rules), tables)
        agent.ring_head = agent.ring_head + 1 if agent.ring_head + 1 < ring.shape[1] else 0
        ring[slot, agent.ring_head] = agent.head
        agent.length += 1
    return living


@_inline
def _hand_out(w, worlds, outputs, rules, ended, over):
    """Write the rewards and ends of a world's slots; `outputs.active` holds who acted, and is set again."""
    first = w * rules.num_snakes
    for slot in range(first, first + rules.num_snakes):
        agent = worlds.agent[slot]
        alive = agent.alive != 0
        acted = outputs.active[slot]
        reward = 0.0
        if acted:
            reward = rules.reward_alive if alive else rules.reward_death
            if agent.ate:
                reward += rules.reward_food
        outputs.reward[slot] = reward
        outputs.terminated[slot] = acted and (ended or not alive)
        outputs.truncated[slot] = alive and over and not ended
        outputs.final_food[slot] = agent.food_eaten if acted and (over or not alive) else 0
        outputs.active[slot] = alive or over
        if outputs.terminated[slot] and not over:
            outputs.final_observation[slot] = 0


@compiled
def step(worlds, action, outputs, rules, tables):
    """Advance every world one tick and restart those that end.

    `action` is an integer array (B,) of 0 forward, 1 right, 2 left; entries of dead snakes are ignored.
    """
    for w in range(worlds.world.shape[0]):
        world = worlds.world[w]
        world.tick += 1
        _move(w, worlds, action, rules, tables)
        _judge(w, worlds, rules, tables)
        living = _settle(w, worlds, rules, tables)
        ended = living == 0 or (rules.ends_with_any and living < rules.num_snakes)
        won = False
        if living > 0 and world.food < rules.food:
            won = not _restock_food(w, worlds, rules, tables)
        over = ended or won or (0 < rules.max_steps <= world.tick)
        _hand_out(w, worlds, outputs, rules, ended, over)
        if over:
            _observe(w, worlds, rules, tables, outputs.final_observation)
            world.episode += np.uint32(1)
            _start_episode(w, worlds, rules, tables)
        _observe(w, worlds, rules, tables, outputs.observation)


@compiled
def start(worlds, outputs, rules, tables):
    """Start the episode that each world's record names, and observe it."""
    for w in range(worlds.world.shape[0]):
        _start_episode(w, worlds, rules, tables)
        _observe(w, worlds, rules, tables, outputs.observation)


@compiled
def observe(worlds, outputs, rules, tables):
    """Observe every world as it stands."""
    for w in range(worlds.world.shape[0]):
        _observe(w, worlds, rules, tables, outputs.observation)
