package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"satchel/p2p"
)

var errTest = errors.New("it does not work")

func TestText(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"", 8, ""},
		{"plain", 8, "plain"},
		{"12345678", 8, "12345678"},
		{"123456789", 8, "12345…"},
		{"a\x00b", 20, "a\ufffdb"},
		{"a\xffb", 20, "a\ufffdb"},
		{"one\ntwo\x1b[2J", 40, "one\ufffdtwo\ufffd[2J"},
		{"\u202egnp.exe", 40, "\ufffdgnp.exe"},
		{"ääääääää", 9, "äää…"},
		{"1234ä89012", 8, "1234…"},
	} {
		if got := text(c.in, c.most); got != c.want {
			t.Errorf("text(%q, %d) = %q, want %q", c.in, c.most, got, c.want)
		}
	}
}

func TestPublic(t *testing.T) {
	id := "12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo"
	for _, c := range []struct{ in, want string }{
		{"the disk is full", "the disk is full"},
		{"/srv/lessons: no such file", "/srv/lessons: no such file"},
		{"dialing 10.0.0.7:4242: refused", "dialing (a peer): refused"},
		{"dialing [fe80::1%eth0]:4242: refused", "dialing (a peer): refused"},
		{"from " + id + ": stalled", "from (a peer): stalled"},
		{"(" + id + ")", "((a peer))"},
		{"at /ip4/10.0.0.7/tcp/4242/p2p/" + id, "at (a peer)"},
		{"read tcp 10.0.0.5:1->10.0.0.7:2: reset", "read tcp (a peer): reset"},
		{"woke 52:54:00:12:34:56, then slept", "woke (a peer), then slept"},
		{"one\n192.168.1.1\ntwo", "(a peer)"},
		{"at 9:30 it was 50% done", "at 9:30 it was 50% done"},
	} {
		if got := public(c.in); got != c.want {
			t.Errorf("public(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("plain")
	f.Add("a\x00\xff\u202e" + strings.Repeat("ä", 600))
	f.Add("dialing [fe80::1%eth0]:4242 at /ip4/10.0.0.7/tcp/1")
	f.Fuzz(func(t *testing.T, s string) {
		got := public(s)
		if len(got) > maxText || !utf8.ValidString(got) || strings.ContainsRune(got, 0) {
			t.Errorf("public(%q) = %q", s, got)
		}
		if again := text(got, maxText); again != got {
			t.Errorf("text(%q) = %q", got, again)
		}
	})
}

func TestErrorOf(t *testing.T) {
	for _, c := range []struct {
		err        error
		name, text string
	}{
		{errTest, "Failed", "it does not work"},
		{context.Canceled, "Offline", "context canceled"},
		{&p2p.Error{Code: p2p.CodeNotReady, Err: errTest}, "NotReady", "it does not work"},
		{fmt.Errorf("applying: %w", &p2p.Error{Code: p2p.CodeBadInput, Err: errTest, Hint: "try\nagain"}), "BadInput", "applying: it does not work (try\ufffdagain)"},
		{&p2p.Error{Code: p2p.CodeTimeout, Err: errors.New("asking 10.0.0.7"), Hint: "see 10.0.0.8"}, "Timeout", "asking (a peer) (see (a peer))"},
	} {
		got := errorOf(c.err)
		if got.Name != Name+".Error."+c.name || got.Body[0] != c.text {
			t.Errorf("%v: got %v", c.err, got)
		}
	}
	if got := errorOf(nil); got != nil {
		t.Errorf("nil: got %v", got)
	}
}

// Whoever asks how often: neighbours are asked once in ten seconds, and all hear the outcome.
func TestChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c checks
		asked := 0
		do := func(context.Context) error {
			asked++
			time.Sleep(3 * time.Second)
			return fmt.Errorf("outcome %d", asked)
		}
		step := func(want string) {
			t.Helper()
			outcomes := make(chan error)
			for range 5 {
				go func() { outcomes <- c.run(t.Context(), do) }()
			}
			for range 5 {
				if err := <-outcomes; err.Error() != want {
					t.Errorf("got %v, want %s", err, want)
				}
			}
		}
		step("outcome 1")
		time.Sleep(6 * time.Second)
		step("outcome 1")
		time.Sleep(time.Second)
		step("outcome 2")
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}

		time.Sleep(checkEvery)
		ctx, cancel := context.WithCancel(t.Context())
		go c.run(t.Context(), do)
		synctest.Wait()
		cancel()
		if err := c.run(ctx, do); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		time.Sleep(3 * time.Second)
	})
}

func TestOverall(t *testing.T) {
	in := func(state string) p2p.ProductStatus { return p2p.ProductStatus{State: state, Followed: true} }
	for _, c := range []struct {
		products []p2p.ProductStatus
		want     string
	}{
		{nil, "idle"},
		{[]p2p.ProductStatus{{State: p2p.StateFailed}}, "idle"},
		{[]p2p.ProductStatus{in(p2p.StateActive), in(p2p.StateKnown)}, "idle"},
		{[]p2p.ProductStatus{in(p2p.StateActive), in(p2p.StateFetching)}, "fetching"},
		{[]p2p.ProductStatus{in(p2p.StateReady), in(p2p.StateFetching)}, "ready"},
		{[]p2p.ProductStatus{in(p2p.StateStaging), in(p2p.StateRefused)}, "failed"},
		{[]p2p.ProductStatus{in(p2p.StateReady), in("trying")}, "trying"},
		{[]p2p.ProductStatus{{State: p2p.StateFetching, Carried: true}, in("something of tomorrow")}, "fetching"},
	} {
		if got := overall(c.products); got != c.want {
			t.Errorf("%v: got %s, want %s", c.products, got, c.want)
		}
	}
}

func TestProductList(t *testing.T) {
	var many []p2p.ProductStatus
	for i := range 1000 {
		many = append(many, p2p.ProductStatus{Product: fmt.Sprintf("p%04d", i), Error: strings.Repeat("long ", 1000), Hint: strings.Repeat("h", 5000),
			Newest: &p2p.ReleaseStatus{Version: strings.Repeat("v", 1000)}})
	}
	many[900].Carried = true
	many[950].Followed = true
	list := productList(many)
	size := 0
	for _, p := range list {
		for _, v := range p {
			if s, ok := v.Value().(string); ok {
				size += len(s)
			}
		}
	}
	if len(list) != maxProducts || size > maxProducts*(2*maxText+6*maxName) {
		t.Errorf("%d products with %d bytes of text", len(list), size)
	}
	for i, want := range []string{"p0950", "p0900", "p0000", "p0001"} {
		if got := list[i]["Product"].Value(); got != want {
			t.Errorf("product %d is %v, want %s", i, got, want)
		}
	}
}
