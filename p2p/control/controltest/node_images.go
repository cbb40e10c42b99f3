package controltest

import (
	"context"
	"slices"
	"time"

	"satchel/p2p"
	"satchel/store/image"
)

// Images lists the images that products are followed into.
func (n *Node) Images() ([]p2p.ImageStatus, error) {
	images := []p2p.ImageStatus{}
	for _, p := range n.Status().Products {
		if p.Followed && !slices.ContainsFunc(images, func(i p2p.ImageStatus) bool { return i.Image == p.Image }) {
			images = append(images, p2p.ImageStatus{Image: p.Image, Policy: p2p.PolicyAsk, Follows: []string{p.Product}})
		}
	}
	return images, nil
}

// Image finds one of Images.
func (n *Node) Image(dir string) (p2p.ImageStatus, error) {
	images, _ := n.Images()
	for _, i := range images {
		if i.Image == dir || dir == "" && len(images) == 1 {
			return i, nil
		}
	}
	return p2p.ImageStatus{}, fail(p2p.CodeNotFound, "", "no image "+dir)
}

// Change makes what is ready live in an image.
func (n *Node) Change(_ context.Context, req p2p.ChangeRequest, progress func(p2p.ChangeProgress)) (res p2p.ChangeResult, err error) {
	im, err := n.Image(req.Image)
	if err != nil {
		return res, err
	}
	progress(p2p.ChangeProgress{What: "switching"})
	res = p2p.ChangeResult{Image: im.Image, When: p2p.WhenNothing}
	n.Set(func(st *p2p.Status) {
		for i := range st.Products {
			if p := &st.Products[i]; p.Image == im.Image && p.Ready != nil {
				p.Live, p.Ready, res.When = p.Ready, nil, p2p.WhenNow
				res.Releases = append(res.Releases, *p.Live)
			}
		}
	})
	return res, nil
}

// ActivateDeployment knows no deployment.
func (n *Node) ActivateDeployment(_ context.Context, _, id string) (p2p.ChangeResult, error) {
	return p2p.ChangeResult{}, fail(p2p.CodeNotFound, "", "no deployment "+id)
}

// DestroyDeployment knows none either.
func (n *Node) DestroyDeployment(_, id string) error {
	return fail(p2p.CodeNotFound, "", "no deployment "+id)
}

// CloneImage knows none.
func (n *Node) CloneImage(_ context.Context, _, id, _ string) error {
	return fail(p2p.CodeNotFound, "", "no deployment "+id)
}

// PinDeployment knows none.
func (n *Node) PinDeployment(_, id string, _ bool) error {
	return fail(p2p.CodeNotFound, "", "no deployment "+id)
}

// DiffDeployments knows none.
func (n *Node) DiffDeployments(_ context.Context, _, id, _ string) ([]image.Change, error) {
	return nil, fail(p2p.CodeNotFound, "", "no deployment "+id)
}

// RollbackImage has nothing to go back to.
func (n *Node) RollbackImage(_ context.Context, dir string) (p2p.ChangeResult, error) {
	return p2p.ChangeResult{}, fail(p2p.CodeNotReady, "", dir+" has no previous deployment")
}

// ConfirmImage has nothing on trial.
func (n *Node) ConfirmImage(_ context.Context, dir string, _ bool) (p2p.ChangeResult, error) {
	return p2p.ChangeResult{Image: dir, When: p2p.WhenNothing}, nil
}

// SetPolicy wants one of the words.
func (n *Node) SetPolicy(_, policy string) error {
	if !slices.Contains([]string{p2p.PolicyAsk, p2p.PolicyAuto, p2p.PolicyNever}, policy) {
		return fail(p2p.CodeBadInput, "", "no policy "+policy)
	}
	return nil
}

// Hold shows in the status.
func (n *Node) Hold(_ context.Context, until time.Time, why string) error {
	n.Set(func(st *p2p.Status) {
		if st.Hold = nil; time.Until(until) > 0 {
			st.Hold = &p2p.HoldStatus{Until: until, Reason: why}
		}
	})
	return nil
}
