"""Kernels for nearest neighbours of pairs (x, y), and for counts of points within their distance on each side.

Nearest-neighbour estimates of mutual information need them. Points are scanned in blocks, or along their order if each
side has a single coordinate. A point's distance from another is the largest difference of a coordinate.
"""

from typing import Any

import numpy as np

from .compiled import SCAN, compiled, larger, smaller

BLOCK = 512
"""Points in a block, whose distances fit into the first-level cache."""
FEW = 32
"""Points that are checked one by one if the nearest of them is near enough."""
FAR = 1e308
"""Distance that marks points that aren't neighbours."""


@compiled(SCAN, inline=True)
def _one_coordinate(row: Any, here: Any, is_first: Any, out: Any) -> None:
    """Raise each value of `out` to |row - here| if that is larger; if `is_first`, overwrite it."""
    for j in range(out.shape[0]):
        a = abs(row[j] - here)
        out[j] = a if is_first else larger(out[j], a)


@compiled(SCAN, inline=True)
def _four_coordinates(
    r0: Any, r1: Any, r2: Any, r3: Any, h0: Any, h1: Any, h2: Any, h3: Any, is_first: Any, out: Any
) -> None:
    """Raise each value of `out` to the largest of |r0 - h0| to |r3 - h3|; if `is_first`, overwrite it."""
    for j in range(out.shape[0]):
        a, b, c, d = abs(r0[j] - h0), abs(r1[j] - h1), abs(r2[j] - h2), abs(r3[j] - h3)
        whole = larger(larger(a, b), larger(c, d))
        out[j] = whole if is_first else larger(out[j], whole)


@compiled(SCAN)
def _distances(points: Any, i: Any, start: Any, stop: Any, out: Any) -> None:
    """Fill `out` with the distances (maximum norm) from point i to points `start` to `stop`.

    `points` is (coordinate, point).
    """
    # Four coordinates at a time keep intermediate values in registers. Views of rows save checks for negative indices.
    d = 0
    while d + 4 <= points.shape[0]:
        _four_coordinates(
            points[d, start:stop], points[d + 1, start:stop], points[d + 2, start:stop], points[d + 3, start:stop],
            points[d, i], points[d + 1, i], points[d + 2, i], points[d + 3, i], d == 0, out,
        )  # fmt: skip
        d += 4
    while d < points.shape[0]:
        _one_coordinate(points[d, start:stop], points[d, i], d == 0, out)
        d += 1


@compiled(SCAN, inline=True)
def _insert(distance: Any, nearest: Any) -> None:
    """Insert `distance` into the ascending array `nearest` in place, and drop the last entry."""
    place = nearest.shape[0] - 1
    while place > 0 and nearest[place - 1] > distance:
        nearest[place] = nearest[place - 1]
        place -= 1
    nearest[place] = distance


@compiled()
def _members_of_groups(groups: Any) -> tuple[Any, Any]:
    """Return the points of all groups, group by group in ascending order, and where each group begins and ends."""
    edges = np.zeros(groups.max() + 2, np.int64)
    for group in groups:
        edges[group + 1] += 1
    edges = np.cumsum(edges)
    members, filled = np.empty(groups.shape[0], np.int64), edges.copy()
    for i, group in enumerate(groups):
        members[filled[group]] = i
        filled[group] += 1
    return members, edges


@compiled(SCAN)
def _leave_out(distances: Any, start: Any, members: Any) -> None:
    """Set distances of the points from `start` on to `FAR`, which marks no neighbour, if they are `members`."""
    for j in members:
        if start <= j < start + distances.shape[0]:
            distances[j - start] = FAR


@compiled(SCAN)
def _take_neighbours(of_x: Any, of_y: Any, both: Any, nearest: Any) -> None:
    """Insert into the ascending list `nearest` all pair distances, max(of_x, of_y), that are below its last.

    `both` is scratch memory.
    """
    last = nearest.shape[0] - 1
    n = of_x.shape[0]
    for j in range(n):
        both[j] = larger(of_x[j], of_y[j])
    for start in range(0, n, FEW):
        part = both[start : min(start + FEW, n)]
        least = FAR
        for j in range(part.shape[0]):
            least = smaller(least, part[j])
        if least < nearest[last]:
            for j in range(part.shape[0]):
                if part[j] < nearest[last]:
                    _insert(part[j], nearest)


@compiled(SCAN)
def _count(distances: Any, near: Any, far: Any) -> tuple[Any, Any]:
    """Return the numbers of distances below `near` and below `far`, int64."""
    n_near, n_far = np.int64(0), np.int64(0)
    for j in range(distances.shape[0]):
        n_near += np.int64(distances[j] < near)
        n_far += np.int64(distances[j] < far)
    return n_near, n_far


@compiled(SCAN, inline=True)
def _is_beyond(edges: Any, block: Any, first: Any, distance: Any) -> Any:
    """Return whether all points of a block are farther than `distance` from `first` in the first coordinate.

    `edges` (block, 2) has the least and largest first coordinate of each block.
    """
    return larger(edges[block, 0] - first, first - edges[block, 1]) > distance


@compiled(SCAN)
def _scan(
    x: Any, y: Any, edges: Any, mates_x: Any, mates_y: Any, i: Any, of_x: Any, of_y: Any, both: Any, nearest: Any
) -> tuple[int, int]:
    """Fill point i's list of `nearest` pairs, and its distances `of_x` and `of_y`; return (left, right).

    The points `mates_x` and `mates_y` share a group with it and don't count. `of_x` is only filled for points from left
    to right: the others are farther in x than all of `nearest`.
    """
    n = x.shape[1]
    last = nearest.shape[0] - 1
    nearest[:] = FAR
    left = right = i // BLOCK * BLOCK  # points from left to right are done
    is_left_open, is_right_open = True, True
    while is_left_open or is_right_open:
        for is_right in (True, False):
            start = right if is_right else left - BLOCK
            stop = min(start + BLOCK, n)
            if start < 0 or start >= n or _is_beyond(edges, start // BLOCK, x[0, i], nearest[last]):
                if is_right:
                    is_right_open = False
                else:
                    is_left_open = False
                continue
            _distances(x, i, start, stop, of_x[start:stop])
            _distances(y, i, start, stop, of_y[start:stop])
            for mates in (mates_x, mates_y):
                _leave_out(of_x[start:stop], start, mates)
                _leave_out(of_y[start:stop], start, mates)
            _take_neighbours(of_x[start:stop], of_y[start:stop], both, nearest)
            if is_right:
                right = stop
            else:
                left = start
    for start in range(0, n, BLOCK):
        if left <= start < right:
            continue
        stop = min(start + BLOCK, n)
        _distances(y, i, start, stop, of_y[start:stop])
        for mates in (mates_x, mates_y):
            _leave_out(of_y[start:stop], start, mates)
    return left, right


@compiled(SCAN)
def neighbour_counts(
    x: Any, y: Any, edges: Any, groups_x: Any, groups_y: Any, places: Any, k: Any, counts_x: Any, counts_y: Any,
    distances: Any,
) -> None:  # fmt: skip
    """Count for each point how many are nearer in x, and in y, than its nearest and its k-th nearest pair (x, y).

    Parameters
    ----------
    x, y
        Float64 (dimension, point), contiguous and finite. Blocks of `BLOCK` points ascend by the first coordinate of
        `x`; within a block a random order is fastest, since of ever nearer neighbours each would be inserted.
    edges
        Float64 (block, 2): least and largest first coordinate of `x` in each block.
    groups_x, groups_y
        Int64 (point,), small and at least 0: points that share either group with a point, including itself, aren't its
        neighbours.
    places
        Int64 (point,): place of each point's results, or -1 for points whose neighbours aren't counted.
    k
        Number of neighbours; every point has at least k points of other groups.
    counts_x, counts_y
        Int64 (2, place), filled: number of points whose distance in x, or in y, is below that of the nearest pair, and
        of the k-th nearest pair. The distance of a pair is the larger one of both sides.
    distances
        Float64 (2, place), filled: distances of the nearest and of the k-th nearest pair.
    """
    n = x.shape[1]
    of_x, of_y, both, nearest = np.empty(n), np.empty(n), np.empty(BLOCK), np.empty(k)
    members_x, edges_x = _members_of_groups(groups_x)
    members_y, edges_y = _members_of_groups(groups_y)
    for i in range(n):
        place = places[i]
        if place >= 0:
            mates_x = members_x[edges_x[groups_x[i]] : edges_x[groups_x[i] + 1]]
            mates_y = members_y[edges_y[groups_y[i]] : edges_y[groups_y[i] + 1]]
            left, right = _scan(x, y, edges, mates_x, mates_y, i, of_x, of_y, both, nearest)
            near, far = nearest[0], nearest[k - 1]
            distances[0, place], distances[1, place] = near, far
            counts_x[0, place], counts_x[1, place] = _count(of_x[left:right], near, far)
            counts_y[0, place], counts_y[1, place] = _count(of_y, near, far)


@compiled(SCAN)
def _walk(x: Any, y: Any, groups_x: Any, groups_y: Any, i: Any, nearest: Any) -> None:
    """Fill `nearest` with the least distances of point i to other pairs (x, y), searching outwards in ascending x.

    Points that share a group with point i don't count.
    """
    last = nearest.shape[0] - 1
    nearest[:] = FAR
    is_open = True
    step = 0
    while is_open:
        step += 1
        is_open = False
        for j in (i + step, i - step):
            if 0 <= j < x.shape[0]:
                distance = abs(x[j] - x[i])
                if distance < nearest[last]:
                    is_open = True
                    distance = larger(distance, abs(y[j] - y[i]))
                    if distance < nearest[last] and (groups_x[j] != groups_x[i]) & (groups_y[j] != groups_y[i]):
                        _insert(distance, nearest)


@compiled(SCAN)
def _count_along(line: Any, groups_x: Any, groups_y: Any, i: Any, radius: Any) -> Any:
    """Return how many values of the ascending array `line`, of other groups, are nearer than `radius` to value i."""
    left, right = i, i + 1
    while left > 0 and line[i] - line[left - 1] < radius:
        left -= 1
    while right < line.shape[0] and line[right] - line[i] < radius:
        right += 1
    count = np.int64(0)
    of_x, of_y = groups_x[left:right], groups_y[left:right]
    for j in range(of_x.shape[0]):
        count += np.int64((of_x[j] != groups_x[i]) & (of_y[j] != groups_y[i]))
    return count


@compiled(SCAN)
def neighbour_counts_of_numbers(
    x: Any, y: Any, ascending: Any, groups_x: Any, groups_y: Any, places: Any, k: Any, counts_x: Any, counts_y: Any,
    distances: Any,
) -> None:  # fmt: skip
    """Count nearer points in x and in y like `neighbour_counts`, for one coordinate per side, along sorted values.

    Parameters
    ----------
    x, y
        Float64 (point,), finite, in ascending order of x.
    ascending
        Int64 (point,): places of points in ascending order of y.
    groups_x, groups_y, places, k, counts_x, counts_y, distances
        As for `neighbour_counts`.
    """
    n, nearest = x.shape[0], np.empty(k)
    for i in range(n):
        place = places[i]
        if place >= 0:
            _walk(x, y, groups_x, groups_y, i, nearest)
            for which in range(2):
                distances[which, place] = nearest[which * (k - 1)]
                counts_x[which, place] = _count_along(x, groups_x, groups_y, i, distances[which, place])
    of_y, in_x, in_y = y[ascending], groups_x[ascending], groups_y[ascending]
    for i in range(n):
        place = places[ascending[i]]
        if place >= 0:
            for which in range(2):
                counts_y[which, place] = _count_along(of_y, in_x, in_y, i, distances[which, place])
