package control_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"satchel/p2p"
	"satchel/p2p/control"
	"satchel/p2p/control/controltest"
	"satchel/store/manifest"
)

var _ control.Node = (*p2p.Node)(nil)

// start serves a node on a home and returns how to stop it; stopping waits for the end.
func start(t *testing.T, home string, node control.Node) (stop func(), downs <-chan struct{}) {
	t.Helper()
	ln, err := control.Listen(home)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{}, 16)
	ended := make(chan error, 1)
	go func() {
		ended <- control.Serve(ctx, ln, node, func() { asked <- struct{}{} }, slog.New(slog.DiscardHandler))
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop, asked
}

func dial(t *testing.T, home string) *control.Client {
	t.Helper()
	c, err := control.Dial(t.Context(), home)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// both runs a test over the socket and over the pipe.
func both(t *testing.T, test func(t *testing.T, node *controltest.Node, c *control.Client)) {
	t.Run("socket", func(t *testing.T) {
		node, home := &controltest.Node{}, t.TempDir()
		start(t, home, node)
		test(t, node, dial(t, home))
	})
	t.Run("local", func(t *testing.T) {
		node := &controltest.Node{}
		c := control.Local(node)
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, node, c)
	})
}

func TestVerbs(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		ctx := t.Context()
		steps := []struct {
			name string
			do   func() (any, error)
			want string
		}{
			{"next without root", func() (any, error) { return c.Next(ctx, "a") }, "code no-root"},
			{"trust", func() (any, error) { return nil, c.Trust(ctx, []byte("root"), false) }, "<nil>"},
			{"trust another", func() (any, error) { return nil, c.Trust(ctx, []byte("other"), false) }, "code refused"},
			{"trust by force", func() (any, error) { return nil, c.Trust(ctx, []byte("other"), true) }, "<nil>"},
			{"next", func() (any, error) { return c.Next(ctx, "a") }, "{1 1 1 [0123456789abcdef] 1 false 0 false false false false   [] 0}"},
			{"no past", func() (any, error) { return c.Past(ctx, "a", 0, 1) }, "code not-found"},
			{"next timestamp", func() (any, error) { n, err := c.NextTimestamp(ctx); return n.Threshold, err }, "1"},
			{"add timestamp", func() (any, error) { return nil, c.AddTimestamp(ctx, []byte{1}) }, "<nil>"},
			{"add nothing", func() (any, error) { return nil, c.AddTimestamp(ctx, nil) }, "code refused"},
			{"announce", func() (any, error) { return nil, c.Announce(ctx, []byte{0, 1, 255}) }, "<nil>"},
			{"announced", func() (any, error) { return node.Announced(), nil }, "[[0 1 255]]"},
			{"follow", func() (any, error) { return nil, c.Follow(ctx, "a", "/img") }, "<nil>"},
			{"unfollow", func() (any, error) { return nil, c.Unfollow(ctx, "a") }, "<nil>"},
			{"unfollow again", func() (any, error) { return nil, c.Unfollow(ctx, "a") }, "code not-found"},
			{"carry", func() (any, error) { return nil, c.Carry(ctx, "b.*") }, "<nil>"},
			{"carries", func() (any, error) { return c.Carries(ctx) }, "[b.*]"},
			{"uncarry", func() (any, error) { return nil, c.Uncarry(ctx, "b.*") }, "<nil>"},
			{"uncarry again", func() (any, error) { return nil, c.Uncarry(ctx, "b.*") }, "code not-found"},
			{"apply nothing", func() (any, error) { return c.Apply(ctx, "a") }, "code not-ready"},
			{"rollback nothing", func() (any, error) { return c.Rollback(ctx, "a") }, "code not-ready"},
			{"prune", func() (any, error) { return c.Prune(ctx, p2p.UsualPrune) }, "{1 1000 []}"},
			{"explain", func() (any, error) { return c.Explain(ctx, "a") }, "[a is in memory.]"},
			{"explain a stranger", func() (any, error) { return c.Explain(ctx, "zz") }, "code not-found"},
			{"explain the node", func() (any, error) { return c.Explain(ctx, "") }, "[This node lives in memory.]"},
		}
		for _, s := range steps {
			v, err := s.do()
			got := fmt.Sprint(v)
			if err != nil {
				got = "code " + p2p.CodeOf(err)
			}
			if got != s.want {
				t.Errorf("%s: got %s (%v), want %s", s.name, got, err, s.want)
			}
		}
	})
}

func TestApplyRollback(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		node.SetProduct("a", func(p *p2p.ProductStatus) {
			p.Live, p.Ready = &p2p.ReleaseStatus{Seq: 1}, &p2p.ReleaseStatus{Seq: 2}
		})
		if r, err := c.Apply(t.Context(), "a"); err != nil || r.Seq != 2 {
			t.Errorf("apply: %v %v", r, err)
		}
		if r, err := c.Rollback(t.Context(), "a"); err != nil || r.Seq != 1 {
			t.Errorf("rollback: %v %v", r, err)
		}
	})
}

func TestStatusSaysWhoServes(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		node.Set(func(st *p2p.Status) { st.Node.ID = "me" })
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Node.ID != "me" || st.Running != c.Running() {
			t.Errorf("got %+v, running %v", st, c.Running())
		}
		if c.Running() && c.PID() != os.Getpid() {
			t.Errorf("pid %d, want %d", c.PID(), os.Getpid())
		}
	})
}

func TestErrorsCross(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		err := c.Trust(t.Context(), nil, false)
		if err == nil || err.Error() != "reading the trust root: it is empty" || p2p.HintOf(err) != "ask the publisher for it" ||
			p2p.CodeOf(err) != p2p.CodeRefused {
			t.Errorf("got %v, hint %q, code %q", err, p2p.HintOf(err), p2p.CodeOf(err))
		}
	})
}

func TestWait(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		node.SetProduct("a", func(p *p2p.ProductStatus) { p.State = p2p.StateFetching })
		states := []string{}
		p, err := c.Wait(t.Context(), "a", 3, p2p.StateReady, func(p p2p.ProductStatus) {
			states = append(states, p.State)
			node.SetProduct("a", func(p *p2p.ProductStatus) { p.State, p.Newest = p2p.StateReady, &p2p.ReleaseStatus{Seq: 4} })
		})
		if err != nil || p.State != p2p.StateReady || p.Newest.Seq != 4 {
			t.Errorf("got %+v, %v", p, err)
		}
		if len(states) == 0 || states[0] != p2p.StateFetching {
			t.Errorf("progress %v", states)
		}
	})
}

func TestWaitEndsWithContext(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		node.SetProduct("a", func(p *p2p.ProductStatus) { p.State = p2p.StateFetching })
		late := errors.New("late")
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := c.Wait(ctx, "a", 0, p2p.StateReady, func(p2p.ProductStatus) { cancel(late) })
		if !errors.Is(err, late) {
			t.Errorf("got %v, want the cause", err)
		}
	})
}

func TestList(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		m := &manifest.Manifest{Header: manifest.Header{Product: "a", Epoch: 1, Seq: 7, Version: "v"}}
		for i := range 3000 {
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("f%04d", i), Type: manifest.File, Mode: 0o644, Size: uint64(i)})
		}
		node.SetManifest(m)
		var head control.Header
		var got []control.Entry
		err := c.List(t.Context(), "a", 7, func(h control.Header) error { head = h; return nil },
			func(e control.Entry) error { got = append(got, e); return nil })
		if err != nil || head.Entries != 3000 || len(got) != 3000 || got[2999].Path != "f2999" || got[5].Size != 5 {
			t.Errorf("got %d entries, head %+v, %v", len(got), head, err)
		}
		stop := errors.New("enough")
		if err := c.List(t.Context(), "a", 0, func(control.Header) error { return stop }, nil); err != stop {
			t.Errorf("got %v", err)
		}
		err = c.List(t.Context(), "a", 8, nil, nil)
		if p2p.CodeOf(err) != p2p.CodeNotFound {
			t.Errorf("got %v", err)
		}
	})
}

func TestVerify(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		node.SetVerify(p2p.VerifyProgress{Done: 1, Total: 2, Bytes: 10, What: "x"}, p2p.VerifyProgress{Done: 2, Total: 2, Bytes: 5})
		var first p2p.VerifyProgress
		res, err := c.Verify(t.Context(), func(p p2p.VerifyProgress) {
			if first.Done == 0 {
				first = p
			}
		})
		if err != nil || res.Blobs != 2 || res.Bytes != 15 || first.What != "x" {
			t.Errorf("got %+v, first %+v, %v", res, first, err)
		}
	})
}

func TestDown(t *testing.T) {
	home := t.TempDir()
	stop, asked := start(t, home, &controltest.Node{})
	c := dial(t, home)
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-asked
	stop()
	if _, err := os.Lstat(filepath.Join(home, control.SocketName)); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
	if _, err := control.Dial(t.Context(), home); err != control.ErrNotRunning {
		t.Errorf("got %v", err)
	}
	local := control.Local(&controltest.Node{})
	defer local.Close()
	if err := local.Down(t.Context()); p2p.CodeOf(err) != p2p.CodeOffline {
		t.Errorf("got %v", err)
	}
}

// Many watch at once; each sees the last change, and all end when the node stops.
func TestWatchers(t *testing.T) {
	node, home := &controltest.Node{}, t.TempDir()
	stop, _ := start(t, home, node)
	const watchers = 20
	var seen, ended sync.WaitGroup
	seen.Add(watchers)
	for range watchers {
		c := dial(t, home)
		ended.Go(func() {
			saw := sync.OnceFunc(seen.Done)
			var last error
			for st, err := range c.Watch(t.Context()) {
				if last = err; st.Store.Blobs == 99 {
					saw()
				}
			}
			if p2p.CodeOf(last) != p2p.CodeOffline {
				t.Errorf("the watch ended with %v", last)
			}
		})
	}
	for i := range 100 {
		node.Set(func(st *p2p.Status) { st.Store.Blobs = i })
	}
	seen.Wait()
	stop()
	ended.Wait()
}

// A watcher that leaves, in whichever way, is forgotten: the server can stop at once.
func TestWatcherLeaves(t *testing.T) {
	node, home := &controltest.Node{}, t.TempDir()
	stop, _ := start(t, home, node)
	c := dial(t, home)
	for range c.Watch(t.Context()) {
		break
	}
	conn, err := net.Dial("unix", filepath.Join(home, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /v1/status?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	buf := make([]byte, 16)
	if _, err := conn.Read(buf); err != nil || !strings.HasPrefix(string(buf), "HTTP/1.1 200") {
		t.Errorf("got %q, %v", buf, err)
	}
	conn.Close()
	node.Set(func(st *p2p.Status) { st.Store.Blobs = 1 })
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
}

// A client that does not read must not keep the node from stopping.
func TestWatcherStuck(t *testing.T) {
	node, home := &controltest.Node{}, t.TempDir()
	stop, _ := start(t, home, node)
	node.Set(func(st *p2p.Status) { st.Home = strings.Repeat("x", 1<<20) })
	conn, err := net.Dial("unix", filepath.Join(home, control.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /v1/status?watch=1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	stop()
}

func TestGarbage(t *testing.T) {
	node, home := &controltest.Node{}, t.TempDir()
	start(t, home, node)
	post := func(route, body string) string {
		return fmt.Sprintf("POST /v1/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", route, len(body), body)
	}
	get := func(route string) string {
		return "GET /v1/" + route + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	}
	for _, c := range []struct{ name, send, want string }{
		{"nothing", "", ""},
		{"noise", "\x00\xff\x16\x03\x01 hello\r\n\r\n", "HTTP/1.1 400"},
		{"another protocol", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 400"},
		{"endless header", "GET / HTTP/1.1\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", "HTTP/1.1 431"},
		{"no such route", get("nosuch"), "HTTP/1.1 404"},
		{"wrong method", get("trust"), "HTTP/1.1 405"},
		{"no body", post("follow", ""), "HTTP/1.1 400"},
		{"not JSON", post("follow", "\x00\x01"), "HTTP/1.1 400"},
		{"wrong type", post("follow", `{"product": 7}`), "HTTP/1.1 400"},
		{"an array", post("follow", `[]`), "HTTP/1.1 400"},
		{"unknown field", post("follow", `{"product":"a","image":"/x","quota":5}`), "HTTP/1.1 400"},
		{"two values", post("follow", `{"product":"a","image":"/x"}{}`), "HTTP/1.1 400"},
		{"deep", post("follow", strings.Repeat("[", 50000)), "HTTP/1.1 400"},
		{"too large", post("follow", `{"product":"`+strings.Repeat("a", 200<<10)+`"}`), "HTTP/1.1 400"},
		{"bad base64", post("announce", `{"envelope":"%%%"}`), "HTTP/1.1 400"},
		{"bad seq", get("wait?product=a&seq=-1&state=ready"), "HTTP/1.1 400"},
		{"huge seq", get("manifest?product=a&seq=99999999999999999999"), "HTTP/1.1 400"},
		{"broken query", get("explain?product=%zz"), "HTTP/1.1 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("unix", filepath.Join(home, control.SocketName))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			io.WriteString(conn, c.send)
			conn.(*net.UnixConn).CloseWrite()
			got, _ := io.ReadAll(conn)
			if !strings.HasPrefix(string(got), c.want) {
				t.Errorf("got %.100q, want %q", got, c.want)
			}
			if strings.Contains(string(got), "goroutine ") {
				t.Errorf("a panic: %s", got)
			}
		})
	}
	if len(node.Status().Products) != 0 {
		t.Errorf("garbage had an effect: %+v", node.Status().Products)
	}
	if _, err := dial(t, home).Status(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// What answers need not be a node.
func TestStrangeServer(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"empty":     func(http.ResponseWriter, *http.Request) {},
		"text":      func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") },
		"not found": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"hangs up":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			ln, err := net.Listen("unix", filepath.Join(home, control.SocketName))
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: h}
			go srv.Serve(ln)
			defer srv.Close()
			if c, err := control.Dial(t.Context(), home); err == nil {
				c.Close()
				t.Error("took it for a node")
			} else if strings.Contains(err.Error(), "http://") {
				t.Errorf("the error speaks of an address nobody knows: %v", err)
			}
		})
	}
}
