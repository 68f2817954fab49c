"""The adjoint of warp, and what travels with an image: masks, labels, boxes."""

import itertools

import pytest
import torch
from torch.autograd import gradcheck

import stn

from .tables import MODES, PADDINGS, TRANSFORMS, images

INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32]
INTEGERS += [torch.int64, torch.uint64, torch.bool]


def one_pixel(n):
    return torch.tensor([[2 / n, 0.0]])


class TestSplat:
    @pytest.mark.parametrize("align", [False, True])
    @pytest.mark.parametrize("padding", PADDINGS)
    @pytest.mark.parametrize("mode", [*MODES, stn.TableKernel(2).double()], ids=str)
    @pytest.mark.parametrize("name", ["affine-2d", "tps-2d", "projective-2d", "affine-3d"])
    def test_it_is_the_adjoint_of_warp(self, name, mode, padding, align):
        family = TRANSFORMS[name]
        transform, theta = family.make(), 2 * family.theta()
        x = images(2, 3, *(6, 5, 4)[: transform.dim])
        run = {"mode": mode, "padding_mode": padding, "align_corners": align}
        for antialias in (False, True) if mode != "nearest" else (False,):
            if antialias and transform.dim == 3:
                continue
            out = stn.warp(x, transform, theta, (3, 4, 5)[: transform.dim], **run)
            if antialias:
                out = stn.warp(x, transform, theta, (3, 4), antialias=True, **run)
            y = torch.randn_like(out)
            back = stn.splat(y, transform, theta, x.shape[2:], antialias=antialias, **run)
            assert back.shape == x.shape
            torch.testing.assert_close((out * y).sum(), (x * back).sum())

    @pytest.mark.parametrize("mode", MODES)
    def test_derivatives(self, mode):
        family = TRANSFORMS["affine-2d"]
        affine, theta = family.make(), family.theta().requires_grad_()
        values = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

        def run(values, theta):
            return stn.splat(values, affine, theta, (5, 4), mode=mode, padding_mode="border")

        if mode == "nearest":
            gradcheck(lambda v: run(v, theta.detach()), values)
            return
        gradcheck(run, (values, theta))
        weight = torch.randn(2, 2, 5, 4, dtype=torch.float64)
        (slope,) = torch.autograd.grad((run(values, theta) * weight).sum(), values)
        options = {"mode": mode, "padding_mode": "border"}
        torch.testing.assert_close(slope, stn.warp(weight, affine, theta, (3, 4), **options))

    def test_many_warps_of_one_image_are_summed(self):
        theta = 0.3 * torch.randn(2, 3, 6, dtype=torch.float64)
        values = torch.randn(2, 3, 1, 4, 5, dtype=torch.float64)
        together = stn.splat(values, stn.Affine(), theta, (6, 6))
        each = [stn.splat(values[:, k], stn.Affine(), theta[:, k], (6, 6)) for k in range(3)]
        torch.testing.assert_close(together, sum(each))
        shared = stn.splat(values[:, 0], stn.Affine(), theta[:1, 0], (6, 6))
        torch.testing.assert_close(shared[0], each[0][0])

    def test_mass_is_kept(self):
        """What lands inside, or is brought back inside, arrives whole."""
        values = torch.rand(1, 1, 8, 8).bfloat16()
        for padding in PADDINGS[1:5]:
            theta = torch.tensor([[0.3, 0.4, 0.2]])
            back = stn.splat(values, stn.Rigid(), theta, (8, 8), padding_mode=padding)
            assert back.dtype == torch.bfloat16
            torch.testing.assert_close(back.sum().float(), values.sum().float(), rtol=0.02, atol=0)

    def test_points_that_are_not_finite_are_dropped(self):
        theta = torch.tensor([[torch.nan, 0.0], [0.0, 0.0]])
        back = stn.splat(torch.ones(2, 1, 3, 3), stn.Translation(), theta, (3, 3))
        assert (back[0] == 0).all()
        torch.testing.assert_close(back[1], torch.ones(1, 3, 3))

    def test_errors(self):
        values, theta = torch.rand(2, 1, 4, 4), torch.zeros(2, 6)
        with pytest.raises(ValueError, match=r"values must have shape .*got \(2, 4, 4\) and"):
            stn.splat(values[:, 0], stn.Affine(), theta, 4)
        with pytest.raises(ValueError, match=r"agree in their batch, got \(2, 1, 4, 4\) and"):
            stn.splat(values, stn.Affine(), theta.repeat(2, 1), 4)
        with pytest.raises(TypeError, match="values must be floating point"):
            stn.splat(values.long(), stn.Affine(), theta, 4)


class TestValidMask:
    @pytest.mark.parametrize("align", [False, True])
    @pytest.mark.parametrize("name", ["similarity-2d", "tps-2d", "projective-2d", "rigid-3d"])
    def test_valid_pixels_do_not_depend_on_padding(self, name, align):
        family = TRANSFORMS[name]
        transform, theta = family.make(), 2 * family.theta()
        size, input_size = (11, 12, 9)[: transform.dim], (13, 10, 8)[: transform.dim]
        image = images(2, 1, *input_size)
        for mode, margin_px in (("bilinear", 0.0), ("bicubic", 1.0), ("lanczos3", 2.0)):
            mask = stn.valid_mask(
                transform, theta, size, input_size, align_corners=align, margin_px=margin_px
            )
            outs = [
                stn.warp(
                    image, transform, theta, size, mode=mode, padding_mode=padding, fill=9.0,
                    align_corners=align,
                )
                for padding in ("fill", "mirror", "zeros")
            ]  # fmt: skip
            same = torch.isclose(outs[0], outs[1], atol=0.05) & torch.isclose(
                outs[0], outs[2], atol=0.05
            )
            assert same[:, 0][mask].all()
            if mode == "bilinear":
                assert mask.any()
                assert not mask.all()
                assert not torch.isclose(outs[0], outs[2], atol=1e-3)[:, 0][~mask].all()

    def test_the_identity_is_valid_everywhere(self):
        for size in ((5, 7), (300, 1001)):
            theta = torch.zeros(1, 3)
            assert stn.valid_mask(stn.Rigid(), theta, size, size).all()
            theta[0, 0] = torch.pi  # float32: half a turn is not exact
            assert stn.valid_mask(stn.Rigid(), theta, size, size).all()

    def test_margins_many_warps_and_nan(self):
        theta = torch.zeros(2, 3, 2)
        theta[0, 1] = torch.nan
        mask = stn.valid_mask(stn.Translation(), theta, (6, 6), (6, 6), margin_px=1)
        assert mask.shape == (2, 3, 6, 6)
        assert not mask[0, 1].any()
        assert mask[1, 2].sum() == 16
        behind = torch.zeros(1, 8)
        behind[0, 6] = 2
        assert not stn.valid_mask(stn.Projective(), behind, (8, 8), (8, 8))[..., :2].any()


class TestLabels:
    @pytest.mark.parametrize("dtype", INTEGERS, ids=str)
    def test_every_type_comes_back_exactly(self, dtype):
        top = 1 if dtype == torch.bool else torch.iinfo(dtype).max
        labels = torch.tensor([[[top, 0, top - 1]]], dtype=dtype)
        out = stn.warp_labels(labels, stn.Translation(), one_pixel(3), fill=top)
        assert out.dtype == dtype
        assert out.flatten().tolist() == [0, top - 1, top]
        same = stn.warp_labels(labels, stn.Affine(), torch.zeros(1, 6))
        assert torch.equal(same.long(), labels.long())

    @pytest.mark.parametrize("align", [False, True])
    @pytest.mark.parametrize("name", ["affine-2d", "tps-2d", "projective-2d", "affine-3d"])
    def test_it_is_warp_in_the_nearest_mode(self, name, align):
        family = TRANSFORMS[name]
        transform, theta = family.make(), 2 * family.theta()
        labels = torch.randint(0, 50, (2, *(7, 6, 5)[: transform.dim]))
        size = (9, 8, 4)[: transform.dim]
        out = stn.warp_labels(labels, transform, theta, size, fill=99, align_corners=align)
        expected = stn.warp(
            labels[:, None].double(), transform, theta, size, mode="nearest", padding_mode="fill",
            fill=99, align_corners=align,
        )  # fmt: skip
        assert torch.equal(out, expected[:, 0].long())

    def test_batches_and_nan(self):
        labels = torch.randint(1, 9, (2, 5, 6), dtype=torch.uint8)
        theta = 0.2 * torch.randn(2, 3, 6)
        theta[1, 2, 0] = torch.nan
        out = stn.warp_labels(labels, stn.Affine(), theta, fill=77)
        assert out.shape == (2, 3, 5, 6)
        assert (out[1, 2] == 77).all()
        for b, k in itertools.product(range(2), range(3)):
            one = stn.warp_labels(labels[b : b + 1], stn.Affine(), theta[b, k, None], fill=77)
            assert torch.equal(out[b, k], one[0])
        one_map = stn.warp_labels(labels[:1], stn.Affine(), theta[:, 0], fill=77)
        assert torch.equal(one_map[0], out[0, 0])

    def test_errors(self):
        labels, theta = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.zeros(1, 6)
        with pytest.raises(TypeError, match=r"integers or bool, got torch.float32: .*use stn.warp"):
            stn.warp_labels(labels.float(), stn.Affine(), theta)
        with pytest.raises(ValueError, match=r"labels of shape \(B, H, W\), got \(1, 1, 4, 4\)"):
            stn.warp_labels(labels[:, None], stn.Affine(), theta)
        for fill in (256, -1, 0.5):
            with pytest.raises(ValueError, match=r"fill must be a label of type torch\.uint8, got"):
                stn.warp_labels(labels, stn.Affine(), theta, fill=fill)
        with pytest.raises(ValueError, match="agree in their batch or have 1, got 3 and 2"):
            stn.warp_labels(labels.expand(3, -1, -1), stn.Affine(), theta.expand(2, -1))


class TestBoxes:
    @pytest.mark.parametrize("align", [False, True])
    @pytest.mark.parametrize("name", ["affine-2d", "projective-2d", "affine-3d", "tps-2d"])
    def test_they_enclose_the_warped_rectangle(self, name, align):
        family = TRANSFORMS[name]
        transform, theta = family.make(), family.theta()
        dim = transform.dim
        input_size, size = (60, 50, 40)[:dim], (80, 100, 30)[:dim]
        low = torch.tensor([12.0, 16, 12])[:dim]
        high = torch.tensor([30.0, 40, 25])[:dim]
        boxes = torch.cat([low, high]).expand(2, 1, -1).double()
        out = stn.warp_boxes(boxes, transform, theta, input_size, size, align_corners=align)
        # The same rectangle painted into a mask, warped, and measured.
        mask = torch.zeros(2, *input_size, dtype=torch.bool)
        place = [slice(int(a), int(b)) for a, b in zip(low, high, strict=True)][::-1]
        mask[(slice(None), *place)] = True
        warped = stn.warp_labels(mask, transform, theta, size, align_corners=align)
        for seen, box in zip(warped, out[:, 0], strict=True):
            index = seen.nonzero().flip(-1)
            found = torch.cat([index.amin(0), index.amax(0) + 1])
            edge = torch.tensor(size[::-1]).repeat(2)
            clipped = torch.minimum(box.clamp(min=0), edge)
            assert (found - clipped).abs().max() <= 1.5

    def test_closed_form(self):
        turn = torch.tensor([[torch.pi / 2, 0.0, 0.0]])  # the output shows the input turned back
        box = torch.tensor([[[1.0, 2.0, 4.0, 3.0]]])
        out = stn.warp_boxes(box, stn.Rigid(), turn, (8, 8))
        corners = box[0, 0].view(2, 2) / 4 - 1
        moved = stn.Rigid().inverse_points(turn, corners)[0] * 4 + 4
        expected = torch.cat([moved.amin(0), moved.amax(0)])
        torch.testing.assert_close(out[0, 0], expected)
        whole = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])
        for align in (False, True):
            same = stn.warp_boxes(whole, stn.Affine(), torch.zeros(1, 6), 8, align_corners=align)
            torch.testing.assert_close(same, whole)
        half = stn.warp_boxes(whole, stn.Affine(), torch.zeros(1, 6), (8, 8), (4, 16))
        torch.testing.assert_close(half, torch.tensor([[[0.0, 0.0, 16.0, 4.0]]]))

    def test_derivatives_batches_and_horizons(self):
        boxes = torch.tensor([[[1.0, 2, 4, 5], [0, 0, 3, 3]]], dtype=torch.float64)
        theta = TRANSFORMS["affine-2d"].theta(batch=3)
        out = stn.warp_boxes(boxes, stn.Affine(), theta, (8, 8))
        assert out.shape == (3, 2, 4)
        gradcheck(
            lambda b, t: stn.warp_boxes(b, stn.Affine(), t, (8, 8)),
            (boxes.requires_grad_(), theta.requires_grad_()),
        )
        behind = torch.zeros(1, 8, dtype=torch.float64)
        behind[0, 6] = 0.9
        far = torch.tensor([[[80.0, 0, 90, 3]]], dtype=torch.float64)
        assert stn.warp_boxes(far, stn.Projective(), behind, (8, 8)).isnan().any()

    def test_errors(self):
        with pytest.raises(ValueError, match=r"\(B, N, 4\), x0 y0 x1 y1, got \(2, 4\)"):
            stn.warp_boxes(torch.rand(2, 4), stn.Affine(), torch.zeros(2, 6), 8)
        with pytest.raises(TypeError, match="boxes must be floating point"):
            stn.warp_boxes(torch.ones(1, 2, 4).long(), stn.Affine(), torch.zeros(1, 6), 8)
