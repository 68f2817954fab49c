"""Small linear algebra on batches of matrices and point sets; all functions broadcast over B."""

import torch
from torch import Tensor

NEAREST_W = 1e-6  # of a point in front of a projective map's horizon
FAR = 1 / NEAREST_W


def apply_linear(linear: Tensor, points: Tensor) -> Tensor:
    """`linear` (B, m, n) times `points` (B or 1, N, n) -> (B, N, m).

    Element by element: a matrix product may run in TF32 on a GPU and move pixels.
    """
    total = linear[..., :, 0].unsqueeze(-2) * points[..., 0:1]
    for j in range(1, points.shape[-1]):
        total = total + linear[..., :, j].unsqueeze(-2) * points[..., j : j + 1]
    return total


def apply_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """`matrix` (B, m, n + 1) times homogeneous `points` (B or 1, N, n) -> (B, N, m)."""
    return apply_linear(matrix[..., :-1], points) + matrix[..., -1].unsqueeze(-2)


def move_all(matrix: Tensor, points: Tensor) -> Tensor:
    """`matrix` (B, m, n + 1) times shared points (N, n) -> (B, N, m), planar: one product."""
    rows = matrix.flatten(0, 1)
    moved = torch.addmm(rows[:, -1:], rows[:, :-1], points.mT)
    return moved.unflatten(0, (-1, matrix.shape[1])).mT


def in_front(offset: Tensor, points: Tensor) -> Tensor:
    """Mask (B, N) of the points with w > 0, for a homogeneous matrix minus the identity."""
    return (1 + apply_affine(offset[..., -1:, :], points)).squeeze(-1) > NEAREST_W


def homogeneous_displacement(offset: Tensor, points: Tensor) -> Tensor:
    """Source minus target under a homogeneous matrix given as its offset from the identity."""
    hom = apply_affine(offset, points)
    rise = hom[..., -1:]
    shift = hom[..., :-1] - points * rise
    w = 1 + rise
    front = w > NEAREST_W
    far = torch.where(shift + points * w < 0, -FAR, torch.full_like(points, FAR)) - points
    return torch.where(front, shift / torch.where(front, w, 1), far)


def inverse_or_nan(matrix: Tensor) -> Tensor:
    """Inverse (…, n, n), NaN where the matrix is singular or not finite."""
    inverse, info = torch.linalg.inv_ex(matrix)
    good = ((info == 0) & matrix.isfinite().flatten(-2).all(-1))[..., None, None]
    return torch.where(good & inverse.isfinite(), inverse, torch.nan)


def rotation_minus_identity(angle: Tensor) -> Tensor:
    """R - I for `angle` (B, 1), rad, in 2-D or a rotation vector (B, 3) in 3-D.

    3-D is Rodrigues' formula, R - I = a K + b K^2 with a = sin t / t and b = (1 - cos t) / t^2;
    both are smooth in t^2, so every derivative at zero is finite.
    """
    if angle.shape[-1] == 1:
        sin, versine = angle.sin(), -2 * (angle / 2).sin().square()
        return torch.stack([versine, -sin, sin, versine], dim=-1).unflatten(-1, (2, 2)).squeeze(-3)
    angle = angle.clamp(-1e18, 1e18)  # the square must not overflow, nor its gradient be NaN
    square = angle.square().sum(-1)[..., None, None]
    small = square < 1e-2
    t2 = torch.where(small, 1.0, square)
    t = t2.sqrt()
    near = torch.where(small, square, 0)  # the series overflows elsewhere, and so its gradient
    a = torch.where(small, _series(near, 1), t.sin() / t)
    b = torch.where(small, _series(near, 2), 2 * (t / 2).sin().square() / t2)
    x, y, z = angle.unbind(-1)
    zero = torch.zeros_like(x)
    k = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    # K^2 = v v^T - |v|^2 I, without a matrix product.
    k2 = angle.unsqueeze(-1) * angle.unsqueeze(-2) - square * torch.eye(
        3, dtype=angle.dtype, device=angle.device
    )
    return a * k + b * k2


def _series(square: Tensor, first: int) -> Tensor:
    """sum_k (-t^2)^k / (2k + first)!: sin t / t for first = 1, (1 - cos t) / t^2 for 2."""
    term = torch.full_like(square, 1.0 if first == 1 else 0.5)
    total = term
    for k in range(1, 7):
        term = -term * square / ((2 * k + first) * (2 * k + first - 1))
        total = total + term
    return total


def rotation_angle(rotation: Tensor) -> Tensor:
    """Inverse of `rotation_minus_identity` (+ I): (B, 1) from (B, 2, 2), (B, 3) from (B, 3, 3)."""
    if rotation.shape[-1] == 2:
        return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]).unsqueeze(-1)
    m = rotation
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Four forms of the same quaternion (w, x, y, z), each times a component of its own; the
    # largest one is well conditioned (Shepperd 1978).
    w, (x, y, z) = 1 + trace, (1 + 2 * m[..., i, i] - trace for i in range(3))
    wx, wy, wz = (m[..., j, i] - m[..., i, j] for i, j in ((1, 2), (2, 0), (0, 1)))
    xy, yz, zx = (m[..., j, i] + m[..., i, j] for i, j in ((0, 1), (1, 2), (2, 0)))
    forms = torch.stack(
        [
            torch.stack(row, dim=-1)
            for row in ((w, wx, wy, wz), (wx, x, xy, zx), (wy, xy, y, yz), (wz, zx, yz, z))
        ],
        dim=-2,
    )
    best = torch.stack([w, x, y, z], dim=-1).argmax(-1)
    q = forms.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    q = q * torch.where(q[..., :1] < 0, -1.0, 1.0)
    norm = q[..., 1:].norm(dim=-1, keepdim=True)
    half = torch.atan2(norm, q[..., :1])
    total = q.norm(dim=-1, keepdim=True)
    ratio = torch.where(norm > 1e-12 * total, 2 * half / norm.clamp(min=1e-30), 2 / total)
    return q[..., 1:] * ratio


def centroids(a: Tensor, b: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means (B, 1, dim) of two point sets; `weights` (B, N)."""
    w = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    return (w * a).sum(-2, keepdim=True), (w * b).sum(-2, keepdim=True)


def procrustes(target: Tensor, source: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares rotation (B, dim, dim) and scale (B,): source ~ s R target + t.

    The points (B, N, dim) are centred here. Umeyama (1991), eqs. 40-42: reflections excluded.
    """
    mean_t, mean_s = centroids(target, source, weights)
    x, y, w = target - mean_t, source - mean_s, weights.unsqueeze(-1)
    covariance = (w * y).mT @ x
    u, d, vh = torch.linalg.svd(covariance)
    sign = torch.ones_like(d)
    sign[..., -1] = torch.det(u @ vh).sign()
    rotation = u @ (sign.unsqueeze(-1) * vh)
    scale = (d * sign).sum(-1) / (w * x.square()).sum((-2, -1))
    return rotation, scale


def least_squares(design: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Minimum-norm weighted least squares: (B, N, n), (B, N, m), (B, N) -> (B, n, m)."""
    root = weights.sqrt().unsqueeze(-1)
    return torch.linalg.pinv(root * design) @ (root * values)


def homography(target: Tensor, source: Tensor, weights: Tensor) -> Tensor:
    """The projective matrix (B, dim + 1, dim + 1) with source ~ H target, by normalised DLT.

    NaN where the points do not determine it.
    Hartley (1997): both sets are moved to zero mean and RMS distance sqrt(dim) first, weighted.
    """
    (x, move_x), (y, move_y) = _normalised(target, weights), _normalised(source, weights)
    dim = x.shape[-1]
    one = torch.ones_like(x[..., :1])
    hom = torch.cat([x, one], dim=-1) * weights.sqrt().unsqueeze(-1)
    zero = torch.zeros_like(hom)
    rows = []
    for i in range(dim):
        blocks = [zero] * dim + [-y[..., i : i + 1] * hom]
        blocks[i] = hom
        rows.append(torch.cat(blocks, dim=-1))
    _, values, vh = torch.linalg.svd(torch.cat(rows, dim=-2), full_matrices=True)
    h = vh[..., -1, :].unflatten(-1, (dim + 1, dim + 1))
    least = 100 * torch.finfo(values.dtype).eps * values[..., 0]
    found = values[..., (dim + 1) ** 2 - 2] > least  # all but one direction
    return torch.where(found[..., None, None], torch.linalg.solve(move_y, h @ move_x), torch.nan)


def _normalised(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    dim = points.shape[-1]
    w = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    mean = (w * points).sum(-2, keepdim=True)
    scale = dim**0.5 / (w * (points - mean).square()).sum((-2, -1)).sqrt()[..., None, None]
    move = torch.eye(dim + 1, dtype=points.dtype, device=points.device).repeat(
        points.shape[0], 1, 1
    )
    move[..., :dim, :dim] *= scale
    move[..., :dim, dim:] = -scale * mean.mT
    return scale * (points - mean), move


def bounded_root(matrix: Tensor, bound: float) -> Tensor:
    """f(M) of symmetric (…, n, n) M >= 0 with f(x) = sqrt(x) between 1 and bound, constant beyond.

    Derivatives up to the second are right at repeated eigenvalues too, where those of the
    eigenvectors do not exist; a third one raises.
    """
    return _BoundedRoot.apply(matrix, bound)  # type: ignore[return-value]


class _Spectrum:
    """Eigenvectors, and divided differences of f: first f[i, j] and second f[i, j, k].

    f is made of three pieces: 1, sqrt, bound. Within one the differences have closed forms without
    cancellation; between two the eigenvalues differ.
    """

    def __init__(self, matrix: Tensor, bound: float):
        self.values, self.u = torch.linalg.eigh(matrix)
        root = self.values.clamp(min=0).sqrt()
        low, high = self.values <= 1 + 1e-9, root >= bound
        self.f = torch.where(low, 1.0, root).clamp(max=bound)
        self.piece = high.long() - low.long()
        s, x = self.f, self.values
        same = self.piece.unsqueeze(-1) == self.piece.unsqueeze(-2)
        gap = torch.where(same, 1.0, x.unsqueeze(-1) - x.unsqueeze(-2))
        total = s.unsqueeze(-1) + s.unsqueeze(-2)
        inner = (self.piece == 0).unsqueeze(-1) / total
        self.first = torch.where(same, inner, (s.unsqueeze(-1) - s.unsqueeze(-2)) / gap)
        self.same, self.gap, self.total = same, gap, total

    def second(self) -> Tensor:
        d = self.first
        dij, djk, dik = d.unsqueeze(-1), d.unsqueeze(-3), d.unsqueeze(-2)
        sij, sik = self.same.unsqueeze(-1), self.same.unsqueeze(-2)
        gij, gik = self.gap.unsqueeze(-1), self.gap.unsqueeze(-2)
        t = self.total
        inner = t.unsqueeze(-1) * t.unsqueeze(-3) * t.unsqueeze(-2)
        inner = torch.where((self.piece == 0)[..., None, None], -1 / inner, 0)
        # f[i, j, k] = (f[j, k] - f[i, k]) / (x_j - x_i), or with k in the place of j.
        across = torch.where(sij, (djk - dij) / -gik, (djk - dik) / -gij)
        return torch.where(sij & sik, inner, across)

    def turned(self, matrix: Tensor) -> Tensor:
        return self.u.mT @ matrix @ self.u

    def back(self, matrix: Tensor) -> Tensor:
        return self.u @ matrix @ self.u.mT


class _BoundedRoot(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, bound: float) -> Tensor:  # pyright: ignore
        spectrum = _Spectrum(matrix, bound)
        return (spectrum.u * spectrum.f.unsqueeze(-2)) @ spectrum.u.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore
        return _RootSlope.apply(ctx.saved_tensors[0], grad, ctx.bound), None

    @staticmethod
    def jvp(ctx, tangent, _):  # pyright: ignore
        return _RootSlope.apply(ctx.saved_tensors[0], tangent, ctx.bound)


class _RootSlope(torch.autograd.Function):
    """Derivative of f at M along E: U (f[i, j] * U^T E U) U^T (Daleckii and Krein, 1965)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, along: Tensor, bound: float) -> Tensor:  # pyright: ignore
        spectrum = _Spectrum(matrix, bound)
        return spectrum.back(spectrum.first * spectrum.turned(along))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.bound = inputs[2]

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore
        matrix, along = ctx.saved_tensors
        to_matrix = _RootCurve.apply(matrix, along.mT, grad, ctx.bound)
        return to_matrix, _RootSlope.apply(matrix, grad, ctx.bound), None

    @staticmethod
    def jvp(ctx, to_matrix, to_along, _):  # pyright: ignore
        matrix, along = ctx.saved_tensors
        total = torch.zeros_like(matrix)
        if to_matrix is not None:
            total = total + _RootCurve.apply(matrix, along, to_matrix, ctx.bound)
        if to_along is not None:
            total = total + _RootSlope.apply(matrix, to_along, ctx.bound)
        return total


class _RootCurve(torch.autograd.Function):
    """Second derivative of f at M along A and B, or the adjoint of the first's derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, a: Tensor, b: Tensor, bound: float) -> Tensor:  # pyright: ignore
        spectrum = _Spectrum(matrix, bound)
        a, b = spectrum.turned(a), spectrum.turned(b)
        pairs = a.unsqueeze(-1) * b.unsqueeze(-3) + b.unsqueeze(-1) * a.unsqueeze(-3)
        return spectrum.back((spectrum.second() * pairs).sum(-2))

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore
        raise NotImplementedError("antialiased warps have no third derivative")

    @staticmethod
    def jvp(ctx, *tangents):  # pyright: ignore
        raise NotImplementedError("antialiased warps have no third derivative")
