package control

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"satchel/p2p"
	"satchel/p2p/control/controltest"
)

// FuzzRequest: whatever is sent to the socket gets an answer of HTTP, in JSON when it is ours, and nothing panics or hangs.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "status", "", []byte{})
	f.Add("GET", "manifest", "product=a&seq=18446744073709551616", []byte{})
	f.Add("GET", "wait", "product=a&seq=1&state=ready", []byte{})
	f.Add("POST", "trust", "", []byte(`{"root":"cm9vdA==","force":false}`))
	f.Add("POST", "follow", "", []byte(`{"product":"a","image":"/img"} {"again":1}`))
	f.Add("POST", "announce", "", []byte(`{"envelope":null,"more":1}`))
	f.Add("POST", "timestamp", "", []byte(`[[[[[[[[`))
	f.Fuzz(func(t *testing.T, method, route, query string, body []byte) {
		if route == "down" || strings.Contains(query, "watch") {
			return // the one stops the server, the other goes on for ever
		}
		node := &controltest.Node{}
		node.SetProduct("a", func(p *p2p.ProductStatus) { p.State = p2p.StateReady })
		s := &server{node: node, down: func() {}, log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond) // a wait for what never comes
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, method, "http://satchel/v1/", bytes.NewReader(body))
		if err != nil {
			return
		}
		req.URL.Path, req.URL.RawQuery = "/v1/"+route, query
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, req)
		if w.Code == http.StatusOK && w.Body.Len() > 0 && !json.Valid(bytes.SplitN(w.Body.Bytes(), []byte("\n"), 2)[0]) {
			t.Errorf("%s %s: the answer is not JSON: %.100q", method, route, w.Body)
		}
	})
}
