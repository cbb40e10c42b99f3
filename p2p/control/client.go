package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"satchel/p2p"
)

// ErrNotRunning is what [Dial] returns when no node serves the home. Its code is p2p.CodeOffline.
var ErrNotRunning error = &p2p.Error{Code: p2p.CodeOffline, Err: errors.New("no node is running on this home"),
	Hint: "start one with \"satchel up\""}

// errStopped is how a stream ends whose node stopped.
var errStopped error = &p2p.Error{Code: p2p.CodeOffline, Err: errors.New("the node stopped before it had answered"),
	Hint: "start it again with \"satchel up\""}

// answerTime is how long a node may take to say hello.
const answerTime = 10 * time.Second

// Client speaks to one node. Its methods may be called from several goroutines. The errors they return carry the node's hint
// and code (see p2p.Error); one that ctx caused wraps its cause.
type Client struct {
	http    *http.Client
	close   func() error
	node    hello
	running bool
}

// Dial connects to the node that serves home; [ErrNotRunning] says that there is none.
func Dial(ctx context.Context, home string) (*Client, error) {
	conn, err := connect(ctx, home)
	if nobodyListens(err) {
		return nil, ErrNotRunning
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, &p2p.Error{Code: p2p.CodeReadOnly, Hint: "it belongs to another user: become that user, or choose another home with --home",
			Err: fmt.Errorf("connecting to the node of %q: %w", home, fs.ErrPermission)}
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the node: %w", err)
	}
	conn.Close()
	c := newClient(func(ctx context.Context) (net.Conn, error) { return connect(ctx, home) })
	c.running = true
	first, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("the node does not answer after %v", answerTime))
	defer cancel()
	err = c.call(first, http.MethodGet, "hello", nil, nil, &c.node)
	if nobodyListens(err) {
		err = ErrNotRunning // it stopped in between
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func newClient(dial func(context.Context) (net.Conn, error)) *Client {
	tr := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       2,
	}
	return &Client{http: &http.Client{Transport: tr}, close: func() error { tr.CloseIdleConnections(); return nil }}
}

// Close ends the client, and for a client of [Local] what serves it. The node stays open.
func (c *Client) Close() error { return c.close() }

// Running says whether the node is another process, on the network.
func (c *Client) Running() bool { return c.running }

// PID is the node's process; 0 for a client of [Local].
func (c *Client) PID() int { return c.node.PID }

// Status asks for a picture of now.
func (c *Client) Status(ctx context.Context) (p2p.Status, error) {
	var st p2p.Status
	err := c.call(ctx, http.MethodGet, "status", nil, nil, &st)
	return st, err
}

// Watch gives the status now, at each change, and about once a second. It ends with ctx, or with an error when the node stops.
func (c *Client) Watch(ctx context.Context) iter.Seq2[p2p.Status, error] {
	return func(yield func(p2p.Status, error) bool) {
		err := lines(c, ctx, http.MethodGet, "status", url.Values{"watch": {"1"}}, func(st p2p.Status) (bool, error) {
			return !yield(st, nil), nil
		})
		if err != nil && ctx.Err() == nil {
			yield(p2p.Status{}, err)
		}
	}
}

// Trust makes the node believe a trust root. Without force only a first root or the next of the same chain.
func (c *Client) Trust(ctx context.Context, rootEnvelope []byte, force bool) error {
	return c.post(ctx, "trust", rootRequest{rootEnvelope, force}, nil)
}

// Follow keeps the image directory on a product; the path is absolute.
func (c *Client) Follow(ctx context.Context, product, image string) error {
	return c.post(ctx, "follow", followRequest{product, image}, nil)
}

// Unfollow stops following; the image directory stays.
func (c *Client) Unfollow(ctx context.Context, product string) error {
	return c.post(ctx, "unfollow", productRequest{product}, nil)
}

// Carry stores and passes on what matches pattern.
func (c *Client) Carry(ctx context.Context, pattern string) error {
	return c.post(ctx, "carry", patternRequest{pattern}, nil)
}

// Uncarry stops carrying a pattern.
func (c *Client) Uncarry(ctx context.Context, pattern string) error {
	return c.post(ctx, "uncarry", patternRequest{pattern}, nil)
}

// Carries lists the patterns that are carried.
func (c *Client) Carries(ctx context.Context) ([]string, error) {
	var out []string
	err := c.call(ctx, http.MethodGet, "carries", nil, nil, &out)
	return out, err
}

// Next says what the next release of a product is to look like.
func (c *Client) Next(ctx context.Context, product string) (p2p.NextRelease, error) {
	var out p2p.NextRelease
	err := c.call(ctx, http.MethodGet, "next", url.Values{"product": {product}}, nil, &out)
	return out, err
}

// Announce hands over a signed announcement of content that is in the home's store.
func (c *Client) Announce(ctx context.Context, envelope []byte) error {
	return c.post(ctx, "announce", announceRequest{envelope}, nil)
}

// Past finds an older release whose content is whole in the home.
func (c *Client) Past(ctx context.Context, product string, epoch, seq uint64) (p2p.PastRelease, error) {
	var out p2p.PastRelease
	err := c.call(ctx, http.MethodGet, "past", url.Values{"product": {product}, "epoch": {strconv.FormatUint(epoch, 10)},
		"seq": {strconv.FormatUint(seq, 10)}}, nil, &out)
	return out, err
}

// NextTimestamp says what a timestamp of now would say.
func (c *Client) NextTimestamp(ctx context.Context) (p2p.NextTimestamp, error) {
	var out p2p.NextTimestamp
	err := c.call(ctx, http.MethodGet, "timestamp", nil, nil, &out)
	return out, err
}

// AddTimestamp hands over a signed timestamp.
func (c *Client) AddTimestamp(ctx context.Context, envelope []byte) error {
	return c.post(ctx, "timestamp", announceRequest{envelope}, nil)
}

// Wait returns when the product's release seq (0: the newest) is in the state, p2p.StateReady or p2p.StateActive. The progress
// function, if not nil, is called with the product's status now and at each change.
func (c *Client) Wait(ctx context.Context, product string, seq uint64, state string, progress func(p2p.ProductStatus)) (p2p.ProductStatus, error) {
	q := url.Values{"product": {product}, "seq": {strconv.FormatUint(seq, 10)}, "state": {state}}
	var out p2p.ProductStatus
	err := lines(c, ctx, http.MethodGet, "wait", q, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error.err()
		case l.Product == nil:
			return false, nil
		}
		out = *l.Product
		if !l.End && progress != nil {
			progress(out)
		}
		return l.End, nil
	})
	return out, err
}

// Apply makes the ready release live. It goes on by itself when ctx ends.
func (c *Client) Apply(ctx context.Context, product string) (p2p.ReleaseStatus, error) {
	var out p2p.ReleaseStatus
	err := c.post(ctx, "apply", productRequest{product}, &out)
	return out, err
}

// Rollback makes the previous release live. It goes on by itself when ctx ends.
func (c *Client) Rollback(ctx context.Context, product string) (p2p.ReleaseStatus, error) {
	var out p2p.ReleaseStatus
	err := c.post(ctx, "rollback", productRequest{product}, &out)
	return out, err
}

// List calls head once and then each with every entry of a release, in the manifest's order; seq 0 is the newest. An error of
// either ends it and is returned.
func (c *Client) List(ctx context.Context, product string, seq uint64, head func(Header) error, each func(Entry) error) error {
	q := url.Values{"product": {product}, "seq": {strconv.FormatUint(seq, 10)}}
	return lines(c, ctx, http.MethodGet, "manifest", q, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error.err()
		case l.Header != nil:
			return false, head(*l.Header)
		case l.Entry != nil:
			return false, each(*l.Entry)
		}
		return l.End, nil
	})
}

// Verify hashes the store and the live trees again. It ends with ctx. With an error of code p2p.CodeCorrupt there is a result too.
func (c *Client) Verify(ctx context.Context, progress func(p2p.VerifyProgress)) (p2p.VerifyResult, error) {
	var out p2p.VerifyResult
	err := lines(c, ctx, http.MethodPost, "verify", nil, func(l line) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error.err()
		case l.Progress != nil && progress != nil:
			progress(*l.Progress)
		case l.Verified != nil:
			out = *l.Verified
		}
		return l.End, nil
	})
	return out, err
}

// Prune removes what nothing needs any more.
func (c *Client) Prune(ctx context.Context, policy p2p.PrunePolicy) (p2p.PruneResult, error) {
	var out p2p.PruneResult
	err := c.post(ctx, "prune", policy, &out)
	return out, err
}

// Explain says in sentences why a product is where it is; "" asks about the node.
func (c *Client) Explain(ctx context.Context, product string) ([]string, error) {
	var out []string
	err := c.call(ctx, http.MethodGet, "explain", url.Values{"product": {product}}, nil, &out)
	return out, err
}

// Down asks the node to stop; it has not stopped yet when Down returns.
func (c *Client) Down(ctx context.Context) error {
	return c.post(ctx, "down", emptyRequest{}, nil)
}

func (c *Client) post(ctx context.Context, route string, in, out any) error {
	return c.call(ctx, http.MethodPost, route, nil, in, out)
}

// call sends one request and reads one answer.
func (c *Client) call(ctx context.Context, method, route string, q url.Values, in, out any) error {
	resp, err := c.send(ctx, method, route, q, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		out = &struct{}{}
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return broken(ctx, err)
	}
	return nil
}

// lines sends one request and hands over each line of its answer until each says that it was the last.
func lines[T any](c *Client, ctx context.Context, method, route string, q url.Values, each func(T) (last bool, err error)) error {
	return linesOf(c, ctx, method, route, q, nil, each)
}

// linesOf is lines for a request with a body.
func linesOf[T any](c *Client, ctx context.Context, method, route string, q url.Values, in any, each func(T) (last bool, err error)) error {
	resp, err := c.send(ctx, method, route, q, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var v T
		if err := dec.Decode(&v); err != nil {
			return broken(ctx, err)
		}
		if last, err := each(v); last || err != nil {
			return err
		}
	}
}

// send returns the answer to one request, or the error that is in it.
func (c *Client) send(ctx context.Context, method, route string, q url.Values, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("writing the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://satchel/v1/"+route+"?"+q.Encode(), body)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, broken(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var fail wireError
	if json.NewDecoder(io.LimitReader(resp.Body, maxRequest)).Decode(&fail) != nil || fail.Text == "" {
		return nil, fmt.Errorf("asking the node for %q: it answers %s: is it of another version?", route, resp.Status)
	}
	return nil, fail.err()
}

// broken says why no answer, or no whole one, came.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // its text would be the address, which says nothing here
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return errStopped
	}
	return fmt.Errorf("asking the node: %w", err)
}
