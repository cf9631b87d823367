"""Slow twins of what tlx computes: numpy only, and not a line in common with the code they
check.
"""

import math

import numpy as np

# ---------------------------------------------------------------- voting and scores


def majority_vote(ballots):
    """One image's class from its crops' classes, by counting; a tie goes to the class met first."""
    best, most = None, 0
    for candidate in ballots:
        count = sum(1 for other in ballots if other == candidate)
        if count > most:
            best, most = candidate, count
    return best


def mean_per_class(truth, predicted):
    """Mean over classes of the share of their images that is right."""
    shares = []
    for label in sorted(set(truth)):
        right = [p == t for t, p in zip(truth, predicted, strict=True) if t == label]
        shares.append(sum(right) / len(right))
    return sum(shares) / len(shares)


def sgdw(weights, gradients, *, rate, momentum, decay, clip):
    """Weights after one step per gradient of SGD with momentum, per-tensor clipping and decoupled
    decay.
    """
    velocity = np.zeros_like(weights)
    for given in gradients:
        norm = np.sqrt((given**2).sum())
        gradient = given * (clip / norm) if clip and norm > clip else given
        weights = weights * (1 - decay)
        velocity = momentum * velocity + gradient
        weights = weights - rate * velocity
    return weights


# ---------------------------------------------------------------- datasets and splits


def idx(raw):
    """The array of unpacked IDX bytes: magic, big-endian sizes, unsigned bytes."""
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.array(list(raw[4 + 4 * raw[3] :]), dtype=np.uint8).reshape(shape)


def mnist_noise(labels, side, structured):
    """Uniform pixels from numpy's seed 1, one image after another; then 78 of 784 pixels held for
    each class.
    """
    state = np.random.RandomState(1)
    images = [np.array([state.uniform(size=(side, side)) for _ in y]) for y in labels]
    for digit in range(10) if structured else ():
        places = state.choice(side * side, side * side // 10, replace=False)
        values = state.uniform(size=len(places))
        for x, y in zip(images, labels, strict=True):
            for image, label in zip(x, y, strict=True):
                if label == digit:
                    image.reshape(-1)[places] = values
    return [np.round(x * 255).astype(np.uint8) for x in images]


def shared(a, b):
    """How many items of b equal some item of a."""
    return sum(any(x == y for x in a) for y in b)


def few_shot_faults(trains, val, test, content, classes):
    """Which promises of a few-shot draw are broken; [] for a sound one.

    trains: {(k, s): [(path, label)]}; val, test: [(path, label)]; content: {path: bytes}
    """
    faults = []
    for (k, s), rows in trains.items():
        counts = [sum(label == c for _, label in rows) for c in classes]
        if counts != [k] * len(classes):
            faults.append(f"{k}/{s}: counts {counts}")
        if [label for _, label in rows] != sorted((label for _, label in rows), key=str.encode):
            faults.append(f"{k}/{s}: not grouped by class")
        if shared([content[p] for p, _ in rows], [content[p] for p, _ in val + test]):
            faults.append(f"{k}/{s}: on two sides")
        if len({content[p] for p, _ in rows}) < len(rows):
            faults.append(f"{k}/{s}: an image twice")
    if shared([content[p] for p, _ in val], [content[p] for p, _ in test]):
        faults.append("val and test share an image")
    return faults


# ---------------------------------------------------------------- images


def luma(rgb):
    """ITU-R BT.601 luma of (h, w, 3) uint8 in 16-bit fixed point, rounded half up: (h, w) uint8."""
    weights = np.rint(np.array([0.299, 0.587, 0.114]) * 65536).astype(np.int64)
    return ((rgb.astype(np.int64) @ weights + 32768) // 65536).astype(np.uint8)


def over_white(rgb, alpha):
    """(h, w, 3) float: colours laid over white by (h, w) alpha of 0…255."""
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def upright(picture, orientation):
    """What EXIF orientation 1…8 says of a picture: which side the stored first row and first column
    really are.
    """
    row, column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    if row in ("left", "right"):
        picture, row, column = np.swapaxes(picture, 0, 1), column, row
    picture = picture[::-1] if row == "bottom" else picture
    return picture[:, ::-1] if column == "right" else picture


def ten_crops(picture, size):
    """Each corner, row by row, of the picture and of its mirror image in turn; then the centre of
    either.
    """
    crops = []
    for vertical in ("upper", "lower"):
        for horizontal in ("left", "right"):
            for view in (picture, np.flip(picture, axis=1)):
                rows = view[:size] if vertical == "upper" else view[len(view) - size :]
                crops.append(
                    rows[:, :size] if horizontal == "left" else rows[:, rows.shape[1] - size :]
                )
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    for view in (picture, np.flip(picture, axis=1)):
        crops.append(view[top : top + size, left : left + size])
    return np.array(crops)


# ---------------------------------------------------------------- intervals


def t_interval(values, confidence=0.95):
    """(low, high) by Student's t."""
    values = np.asarray(values, float)
    degrees = len(values) - 1
    factor = t_factor(degrees, confidence)
    spread = np.sqrt(((values - values.mean()) ** 2).sum() / degrees / len(values))
    return values.mean() - factor * spread, values.mean() + factor * spread


def t_factor(degrees, confidence=0.95):
    """The t within which this share of Student's distribution lies: its density summed over a fine
    grid until half the confidence is reached.
    """
    t = np.arange(0, 400, 1e-4)
    density = (1 + t**2 / degrees) ** (-(degrees + 1) / 2)
    area = np.cumsum((density[1:] + density[:-1]) / 2)
    beyond = (degrees + 1) / 2 * np.log(degrees) - degrees * np.log(
        400.0
    )  # the grid, in logarithms
    tail = np.exp(beyond) / degrees / 1e-4
    return t[1:][np.searchsorted(area, confidence * (area[-1] + tail))]


def crossed_intervals(tables, classes, pool, bounds=(0.0, 1.0)):
    """{shots: (low, high)} of mean accuracies over draws and images; tables {shots: rows of right
    (1) or wrong (0)}, or of their differences. The variance over draws leans on a line through the
    logarithms of three others or more.
    """
    parts = {shots: crossed_variance(table, classes) for shots, table in tables.items()}
    ends = {}
    for shots, table in tables.items():
        mean, over_draws, over_images, residual = parts[shots]
        m = len(table)
        others = [
            (np.log(k), np.log(parts[k][1]) + 1 / (len(tables[k]) - 1))
            for k in tables
            if k != shots and parts[k][1] > 0
        ]
        lent, df = 0.0, m - 1.0
        if len(others) >= 3:
            x, y = (np.array(values) for values in zip(*others, strict=True))
            slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
            lent = np.exp(y.mean() + slope * (np.log(shots) - x.mean()))
            over_draws = (4 * lent + (m - 1) * over_draws) / (m + 3)
            df += 4
        shared = min(0.9, shots / pool)
        a = over_draws * (1 / m + shared / (1 - shared))
        b = max(0.0, over_images - residual / m)
        if a + b == 0:
            ends[shots] = mean, mean
            continue
        together = (a + b) ** 2 / (a**2 / df + b**2 / (len(classes) - len(set(classes))))
        half = t_factor(together) * np.sqrt(a + b)
        ends[shots] = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return ends


# ---------------------------------------------------------------- embedding and classifiers


def full_network_embedding(train, rows, low=-0.25, high=0.15):
    """Each value of `rows` against its column in `train`: −1, 0 or 1, column by column and value by
    value.
    """
    out = np.zeros(rows.shape, int)
    for j in range(train.shape[1]):
        column = [float(v) for v in train[:, j]]
        if min(column) == max(column):
            continue
        mean = sum(column) / len(column)
        deviation = (sum((v - mean) ** 2 for v in column) / len(column)) ** 0.5
        for i, value in enumerate(rows[:, j]):
            z = (float(value) - mean) / deviation
            out[i, j] = 1 if z > high else -1 if z < low else 0
    return out


def ridge(x, targets, penalty):
    """(weights (d, k), intercept (k,)) of least squares with a penalty on the weights alone: the
    normal equations.
    """
    d = x.shape[1]
    wide = np.hstack([x, np.ones((len(x), 1))])
    only_weights = np.diag([penalty] * d + [0.0])
    solution = np.linalg.solve(wide.T @ wide + only_weights, wide.T @ targets)
    return solution[:d], solution[d]


def ridge_left_out(x, targets, penalty, groups):
    """What a model that was fitted again without a row's group says of the row."""
    out = np.empty(targets.shape)
    for i, group in enumerate(groups):
        kept = [j for j, other in enumerate(groups) if other != group]
        weights, intercept = ridge(x[kept], targets[kept], penalty)
        out[i] = x[i] @ weights + intercept
    return out


def logistic(x, labels, strength, steps=200):
    """Weights and intercept of the least Σ log-loss + ‖W‖² / (2C), by Newton's method on all of
    them at once; of two classes one column, of more columns that sum to 0.
    """
    n, d = x.shape
    classes = int(labels.max()) + 1
    columns = 1 if classes == 2 else classes
    wide = np.hstack([x, np.ones((n, 1))])
    point = np.zeros((d + 1) * columns)
    penalty = np.diag(np.tile([1.0 / strength] * d + [0.0], columns))

    def parts(point):
        values = wide @ point.reshape(columns, d + 1).T
        full = np.hstack([np.zeros((n, 1)), values]) if classes == 2 else values
        odds = np.exp(full - full.max(axis=1, keepdims=True))
        shares = odds / odds.sum(axis=1, keepdims=True)
        loss = -np.log(shares[range(n), labels]).sum() + point @ penalty @ point / 2
        return loss, shares[:, -columns:]

    for _ in range(steps):
        loss, shares = parts(point)
        truth = np.eye(classes)[labels][:, -columns:]
        slope = ((shares - truth).T @ wide).ravel() + penalty @ point
        curvature = penalty.copy()
        for row, share in zip(wide, shares, strict=True):
            block = np.diag(share) - np.outer(share, share)
            curvature += np.kron(block, np.outer(row, row))
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        length = 1.0
        while parts(point - length * step)[0] > loss and length > 1e-6:
            length /= 2
        point = point - length * step
    solved = point.reshape(columns, d + 1)
    intercept = solved[:, d] - (solved[:, d].mean() if columns > 1 else 0)
    return solved[:, :d].T, intercept


def neighbours_vote(train, labels, row, k):
    """The label most of the k nearest rows have; of labels with as many votes, the smallest."""
    order = sorted(range(len(train)), key=lambda i: (((train[i] - row) ** 2).sum(), i))[:k]
    votes = [labels[i] for i in order]
    return min(set(votes), key=lambda label: (-votes.count(label), label))


def cosine_votes(train, labels, row, k, temperature):
    """Label → share of the votes of the k rows of largest cosine, each of weight exp(cosine /
    temperature).
    """
    cosines = [float(t @ row / np.sqrt((t @ t) * (row @ row))) for t in train]
    order = sorted(range(len(train)), key=lambda i: (-cosines[i], i))[:k]
    votes = dict.fromkeys(labels, 0.0)
    for i in order:
        votes[labels[i]] += np.exp(cosines[i] / temperature)
    return {label: weight / sum(votes.values()) for label, weight in votes.items()}


def nearest_mean(train, labels, row):
    """The label whose rows' mean is nearest; of equals the smallest."""
    distance = {}
    for label in set(labels):
        mean = np.mean([t for t, own in zip(train, labels, strict=True) if own == label], axis=0)
        distance[label] = ((mean - row) ** 2).sum()
    return min(distance, key=lambda label: (distance[label], label))


# ---------------------------------------------------------------- layer metrics


def rdm_correlation(x):
    """1 − Pearson's r of every two rows: (n, n)."""
    return np.array([[1 - np.corrcoef(a, b)[0, 1] for b in x] for a in x])


def squares(x, labels):
    """Sums of squares within classes and in all."""
    x = np.asarray(x, np.float64)
    within = sum(
        ((x[labels == c] - x[labels == c].mean(axis=0)) ** 2).sum() for c in set(labels.tolist())
    )
    return within, ((x - x.mean(axis=0)) ** 2).sum()


def contrast(rdm, labels):
    """Mean dissimilarity of different rows of one class, and of rows of two classes."""
    same, other = [], []
    for i in range(len(rdm)):
        for j in range(len(rdm)):
            if i != j:
                (same if labels[i] == labels[j] else other).append(rdm[i, j])
    return np.mean(same), np.mean(other)


def nearest_between(x, y, k):
    """The k nearest rows of y of each row of x: squared distances and indices, inf and -1 where y
    has no more; equals in the order of y. Pure Python sums, correctly rounded by fsum.
    """
    values, indices = [], []
    for a in np.asarray(x, np.float64).tolist():
        pairs = sorted(
            (math.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)), j)
            for j, b in enumerate(np.asarray(y, np.float64).tolist())
        )
        pairs = (pairs + [(math.inf, -1)] * k)[:k]
        values.append([distance for distance, _ in pairs])
        indices.append([j for _, j in pairs])
    return np.array(values), np.array(indices)


def ratios(x):
    """Second over first neighbour's distance of every row, ascending, where both are known."""
    x = np.asarray(x, np.float64)
    values = []
    for i in range(len(x)):
        distances = np.sort(np.sqrt(((np.delete(x, i, axis=0) - x[i]) ** 2).sum(axis=1)))[:2]
        if distances[0] > 0 and distances[0] != distances[1]:
            values.append(distances[1] / distances[0])
    return np.sort(values)


def two_nn_points(x, fraction=0.9):
    """Points of the TwoNN fit: ln μ and −ln(1 − F)."""
    mu = ratios(x)
    n = len(mu)
    first = np.log(mu)[:-2]
    second = -np.log(1 - np.arange(1, n + 1)[:-2] / n)
    used = int(np.floor(fraction * n))
    return first[:used], second[:used]


def two_nn(x, fraction=0.9):
    """TwoNN (Facco et al. 2017) as Ansuini et al. 2019 fit it: the slope through the origin."""
    first, second = two_nn_points(x, fraction)
    return (first * second).sum() / (first**2).sum()


# ---------------------------------------------------------------- splits crossed with images


def crossed_variance(table, classes):
    """(mean, S², images, residual) of a split × image table of means per class, by loops."""
    splits, images = len(table), len(table[0])
    names = sorted(set(classes))
    size = {c: sum(1 for other in classes if other == c) for c in names}
    by_split = []
    for s in range(splits):
        total = 0.0
        for i in range(images):
            total += table[s][i] / (len(names) * size[classes[i]])
        by_split.append(total)
    mean = sum(by_split) / splits
    split_var = sum((d - mean) ** 2 for d in by_split) / (splits - 1)
    of_images = of_residual = 0.0
    for c in names:
        if size[c] < 2:
            continue
        inside = [i for i in range(images) if classes[i] == c]
        image_mean = {i: sum(table[s][i] for s in range(splits)) / splits for i in inside}
        class_mean = sum(image_mean.values()) / size[c]
        share = 1.0 / (len(names) ** 2 * size[c])
        of_images += share * sum((image_mean[i] - class_mean) ** 2 for i in inside) / (size[c] - 1)
        for s in range(splits):
            of_split = sum(table[s][i] for i in inside) / size[c]
            for i in inside:
                rest = table[s][i] - image_mean[i] - of_split + class_mean
                of_residual += share * rest**2 / ((splits - 1) * (size[c] - 1))
    return mean, split_var, of_images, of_residual


def expected_loss(mean, se, df, steps=400_001, reach=400.0):
    """Loss of acting on the sign of a difference whose truth is mean + se · t(df), by summing."""
    import math

    x = np.linspace(-reach, reach, steps)
    logs = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    density = np.exp(logs - (df + 1) / 2 * np.log1p(x**2 / df))
    truth = abs(mean) + se * x
    return float((np.maximum(-truth, 0) * density).sum() * (x[1] - x[0]))


def two_nn_likelihood(x, fraction=0.9):
    """TwoNN by maximum likelihood; of the largest ratios only that they are larger is used."""
    logs = np.log(ratios(x))
    used = int(np.floor(fraction * len(logs)))
    return (used - 1) / (sum(logs[:used]) + (len(logs) - used) * logs[used - 1])


def unbiased_cka(x, y):
    """Song et al. 2012, equation 5, of Gram matrices as they are."""

    def hsic(a, b):
        n = len(a)
        g, h = ((m @ m.T) * (1 - np.eye(n)) for m in (a, b))
        return (
            (np.trace(g @ h) + g.sum() * h.sum() / (n - 1) / (n - 2) - 2 * (g @ h).sum() / (n - 2))
            / n
            / (n - 3)
        )

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def mean_ranks(values):
    """Rank of each value, ties sharing the mean of theirs."""
    return np.array(
        [
            sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]
    )


def label_similarity(x, labels):
    """Spearman's ρ of the correlation distances and "another class", over pairs of rows."""
    rdm = rdm_correlation(x)
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x))]
    distances = mean_ranks([rdm[i, j] for i, j in pairs])
    other = mean_ranks([float(labels[i] != labels[j]) for i, j in pairs])
    return np.corrcoef(distances, other)[0, 1]


def one_hot(labels):
    """A column for each class."""
    return np.array([[float(label == c) for c in sorted(set(labels))] for label in labels])


# metric of a layer → what it is of rows x, their labels, and random parts of the rows
LAYER_METRICS = {
    "ss_within": lambda x, labels, parts: squares(x, labels)[0],
    "ss_between": lambda x, labels, parts: squares(x, labels)[1] - squares(x, labels)[0],
    "ss_total": lambda x, labels, parts: squares(x, labels)[1],
    "ss_ratio": lambda x, labels, parts: squares(x, labels)[0] / squares(x, labels)[1],
    "id": lambda x, labels, parts: np.mean([two_nn(x[part]) for part in parts]),
    "id_std": lambda x, labels, parts: np.std([two_nn(x[part]) for part in parts]),
    "id_all": lambda x, labels, parts: two_nn(x),
    "id_r": lambda x, labels, parts: np.corrcoef(*two_nn_points(x))[0, 1],
    "id_mle": lambda x, labels, parts: two_nn_likelihood(x),
    "rsa_within": lambda x, labels, parts: contrast(rdm_correlation(x), labels)[0],
    "rsa_between": lambda x, labels, parts: contrast(rdm_correlation(x), labels)[1],
    "rsa_contrast": lambda x, labels, parts: abs(
        np.subtract(*contrast(rdm_correlation(x), labels))
    ),
    "rsa_label": lambda x, labels, parts: label_similarity(x, labels),
    "cka_label": lambda x, labels, parts: unbiased_cka(x, one_hot(labels)),
}
