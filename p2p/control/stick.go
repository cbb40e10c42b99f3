package control

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"satchel/p2p"
)

// importRequest asks for an import; the path is absolute.
type importRequest struct {
	Dir string `json:"dir"`
}

// stickLine is one line of the stream of an export or an import: one field of it is set.
type stickLine[R any] struct {
	Progress *p2p.StickProgress `json:"progress,omitempty"`
	Result   *R                 `json:"result,omitempty"`
	End      bool               `json:"end,omitempty"`
	Error    *wireError         `json:"failure,omitempty"`
}

// streamed answers a request by a stream of progress, the result, and the error if there is one: what was done until then counts too.
func streamed[T, R any](s *server, do func(ctx context.Context, in T, progress func(p2p.StickProgress)) (R, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in T
		if err := readJSON(http.MaxBytesReader(w, r.Body, maxRequest), &in); err != nil {
			s.answer(w, nil, &p2p.Error{Code: p2p.CodeBadInput, Err: fmt.Errorf("reading the request: %w", err)})
			return
		}
		out := newStream(w)
		var last time.Time
		res, err := do(r.Context(), in, func(p p2p.StickProgress) {
			if now := time.Now(); now.Sub(last) >= 100*time.Millisecond {
				last = now
				out.send(stickLine[R]{Progress: &p})
			}
		})
		if r.Context().Err() != nil {
			return
		}
		if out.send(stickLine[R]{Result: &res, End: err == nil}); err != nil {
			out.send(stickLine[R]{Error: errorToWire(err)})
		}
	}
}

func stick[T, R any](c *Client, ctx context.Context, route string, in T, progress func(p2p.StickProgress)) (out R, err error) {
	err = linesOf(c, ctx, http.MethodPost, route, nil, in, func(l stickLine[R]) (bool, error) {
		switch {
		case l.Error != nil:
			return true, l.Error.err()
		case l.Progress != nil && progress != nil:
			progress(*l.Progress)
		case l.Result != nil:
			out = *l.Result
		}
		return l.End, nil
	})
	return out, err
}

// Export writes releases to a stick. It ends with ctx; the stick is then at least as good as before. With an error there is a result too.
func (c *Client) Export(ctx context.Context, o p2p.ExportOptions, progress func(p2p.StickProgress)) (p2p.ExportResult, error) {
	return stick[p2p.ExportOptions, p2p.ExportResult](c, ctx, "export", o, progress)
}

// Import takes what a stick has; dir is absolute. It ends with ctx; what came is kept. With an error there is a result too.
func (c *Client) Import(ctx context.Context, dir string, progress func(p2p.StickProgress)) (p2p.ImportResult, error) {
	return stick[importRequest, p2p.ImportResult](c, ctx, "import", importRequest{dir}, progress)
}
