package control

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"satchel/p2p"
	"satchel/store/image"
)

// imageRequest names an image, and what of it is meant. An empty image is the only one.
type imageRequest struct {
	Image      string `json:"image,omitempty"`
	Deployment string `json:"deployment,omitempty"`
	Other      string `json:"other,omitempty"` // to compare with
	Name       string `json:"name,omitempty"`  // of a clone
	On         bool   `json:"on,omitempty"`
	Unchecked  bool   `json:"unchecked,omitempty"` // confirm without health checks
	Policy     string `json:"policy,omitempty"`
}

type holdRequest struct {
	Until  time.Time `json:"until"`
	Reason string    `json:"reason,omitempty"`
}

// imageRoutes are those of images. A change of a live tree that has begun ends by itself.
func (s *server) imageRoutes(mux *http.ServeMux) {
	n := s.node
	mux.HandleFunc("GET /v1/images", func(w http.ResponseWriter, _ *http.Request) {
		out, err := n.Images()
		s.answer(w, out, err)
	})
	mux.HandleFunc("GET /v1/image", func(w http.ResponseWriter, r *http.Request) {
		out, err := n.Image(r.FormValue("image"))
		s.answer(w, out, err)
	})
	mux.HandleFunc("POST /v1/change", streamed(s, n.Change))
	mux.HandleFunc("POST /v1/image/clone", take(s, func(ctx context.Context, in imageRequest) (any, error) {
		return done(n.CloneImage(ctx, in.Image, in.Deployment, in.Name))
	}))
	mux.HandleFunc("POST /v1/image/pin", take(s, func(_ context.Context, in imageRequest) (any, error) {
		return done(n.PinDeployment(in.Image, in.Deployment, in.On))
	}))
	mux.HandleFunc("POST /v1/image/diff", take(s, func(ctx context.Context, in imageRequest) (any, error) {
		return n.DiffDeployments(ctx, in.Image, in.Deployment, in.Other)
	}))
	mux.HandleFunc("POST /v1/image/activate", take(s, func(ctx context.Context, in imageRequest) (any, error) {
		return n.ActivateDeployment(ctx, in.Image, in.Deployment)
	}))
	mux.HandleFunc("POST /v1/image/destroy", take(s, func(_ context.Context, in imageRequest) (any, error) {
		return done(n.DestroyDeployment(in.Image, in.Deployment))
	}))
	mux.HandleFunc("POST /v1/image/rollback", take(s, func(ctx context.Context, in imageRequest) (any, error) {
		return n.RollbackImage(context.WithoutCancel(ctx), in.Image)
	}))
	mux.HandleFunc("POST /v1/image/confirm", take(s, func(ctx context.Context, in imageRequest) (any, error) {
		return n.ConfirmImage(context.WithoutCancel(ctx), in.Image, in.Unchecked)
	}))
	mux.HandleFunc("POST /v1/image/policy", take(s, func(_ context.Context, in imageRequest) (any, error) {
		return done(n.SetPolicy(in.Image, in.Policy))
	}))
	mux.HandleFunc("POST /v1/hold", take(s, func(ctx context.Context, in holdRequest) (any, error) {
		return done(n.Hold(ctx, in.Until, in.Reason))
	}))
}

// Images lists the images that products are followed into.
func (c *Client) Images(ctx context.Context) (out []p2p.ImageStatus, err error) {
	err = c.call(ctx, http.MethodGet, "images", nil, nil, &out)
	return out, err
}

// Image says what is in an image; the path is absolute, or empty for the only one.
func (c *Client) Image(ctx context.Context, dir string) (out p2p.ImageStatus, err error) {
	err = c.call(ctx, http.MethodGet, "image", url.Values{"image": {dir}}, nil, &out)
	return out, err
}

// Change updates an image or changes what it consists of. It ends with ctx before the switch, not after. With an error there is a result too.
func (c *Client) Change(ctx context.Context, req p2p.ChangeRequest, progress func(p2p.ChangeProgress)) (p2p.ChangeResult, error) {
	return stick[p2p.ChangeRequest, p2p.ChangeResult](c, ctx, "change", req, progress)
}

// ActivateDeployment makes a deployment live, or arms it when it is a system.
func (c *Client) ActivateDeployment(ctx context.Context, dir, id string) (out p2p.ChangeResult, err error) {
	err = c.post(ctx, "image/activate", imageRequest{Image: dir, Deployment: id}, &out)
	return out, err
}

// DestroyDeployment removes a deployment.
func (c *Client) DestroyDeployment(ctx context.Context, dir, id string) error {
	return c.post(ctx, "image/destroy", imageRequest{Image: dir, Deployment: id}, nil)
}

// CloneImage copies a deployment under a name.
func (c *Client) CloneImage(ctx context.Context, dir, id, name string) error {
	return c.post(ctx, "image/clone", imageRequest{Image: dir, Deployment: id, Name: name}, nil)
}

// PinDeployment keeps a deployment, or lets it go.
func (c *Client) PinDeployment(ctx context.Context, dir, id string, on bool) error {
	return c.post(ctx, "image/pin", imageRequest{Image: dir, Deployment: id, On: on}, nil)
}

// DiffDeployments compares two deployments.
func (c *Client) DiffDeployments(ctx context.Context, dir, a, b string) (out []image.Change, err error) {
	err = c.post(ctx, "image/diff", imageRequest{Image: dir, Deployment: a, Other: b}, &out)
	return out, err
}

// RollbackImage makes the previous deployment live, or arms it when it is a system.
func (c *Client) RollbackImage(ctx context.Context, dir string) (out p2p.ChangeResult, err error) {
	err = c.post(ctx, "image/rollback", imageRequest{Image: dir}, &out)
	return out, err
}

// ConfirmImage runs the health checks and makes what is on trial stay; unchecked leaves them out.
func (c *Client) ConfirmImage(ctx context.Context, dir string, unchecked bool) (out p2p.ChangeResult, err error) {
	err = c.post(ctx, "image/confirm", imageRequest{Image: dir, Unchecked: unchecked}, &out)
	return out, err
}

// SetPolicy says when releases are applied to an image: ask, auto or never.
func (c *Client) SetPolicy(ctx context.Context, dir, policy string) error {
	return c.post(ctx, "image/policy", imageRequest{Image: dir, Policy: policy}, nil)
}

// Hold keeps live trees as they are until a time; a time that is past ends it.
func (c *Client) Hold(ctx context.Context, until time.Time, reason string) error {
	return c.post(ctx, "hold", holdRequest{until, reason}, nil)
}
