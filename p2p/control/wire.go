package control

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"satchel/announce"
	"satchel/p2p"
	"satchel/store/manifest"
)

// maxRequest bounds a request's body in bytes, maxRootRequest that of one with a root file: base64 with room to spare.
const (
	maxRequest     = 128 << 10
	maxRootRequest = announce.MaxRootFile/3*4 + 1<<10
)

// The shapes of requests.
type (
	rootRequest struct {
		Root  []byte `json:"root"`
		Force bool   `json:"force"`
	}
	followRequest struct {
		Product string `json:"product"`
		Image   string `json:"image"`
	}
	productRequest struct {
		Product string `json:"product"`
	}
	patternRequest struct {
		Pattern string `json:"pattern"`
	}
	announceRequest struct {
		Envelope []byte `json:"envelope"`
	}
	emptyRequest struct{}
)

// hello is the answer to the first thing a client asks.
type hello struct {
	PID int `json:"pid"`
}

// Header is the head of a release's list of entries.
type Header struct {
	Product string `json:"product"`
	Epoch   uint64 `json:"epoch"`
	Seq     uint64 `json:"seq"`
	Version string `json:"version"`
	Notes   string `json:"notes,omitempty"`
	Entries int    `json:"entries"`
}

// Entry is one line of a release's list.
type Entry struct {
	Path string `json:"path"`
	Type string `json:"type"` // dir, file or symlink
	Mode uint32 `json:"mode"`
	Size uint64 `json:"size"`
	Blob string `json:"blob,omitempty"` // CID
	Link string `json:"link,omitempty"`
}

func headerToWire(m *manifest.Manifest) Header {
	return Header{m.Product, m.Epoch, m.Seq, m.Version, m.Notes, len(m.Entries)}
}

func entryToWire(e *manifest.Entry) Entry {
	out := Entry{Path: e.Path, Type: e.Type.String(), Mode: e.Mode, Size: e.Size, Link: e.Link}
	if e.Blob.Defined() {
		out.Blob = e.Blob.String()
	}
	return out
}

// line is one line of a stream: one field of it is set.
type line struct {
	Product  *p2p.ProductStatus  `json:"product,omitempty"`
	Progress *p2p.VerifyProgress `json:"progress,omitempty"`
	Verified *p2p.VerifyResult   `json:"verified,omitempty"`
	Header   *Header             `json:"header,omitempty"`
	Entry    *Entry              `json:"entry,omitempty"`
	End      bool                `json:"end,omitempty"`
	Error    *wireError          `json:"failure,omitempty"`
}

// wireError is an error as it crosses the socket.
type wireError struct {
	Text string `json:"error"`
	Hint string `json:"hint,omitempty"`
	Code string `json:"code,omitempty"`
}

func errorToWire(err error) *wireError {
	return &wireError{Text: err.Error(), Hint: p2p.HintOf(err), Code: p2p.CodeOf(err)}
}

func (e *wireError) err() error {
	return &p2p.Error{Code: e.Code, Hint: e.Hint, Err: errors.New(e.Text)}
}

// readJSON reads one JSON value and nothing after it.
func readJSON(r io.Reader, v any) error {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more after the end of the request")
	}
	return nil
}

// httpStatus is for people with curl; this package's client reads the code.
func httpStatus(code string) int {
	switch code {
	case p2p.CodeNotFound:
		return http.StatusNotFound
	case p2p.CodeBadInput:
		return http.StatusBadRequest
	case p2p.CodeRefused, p2p.CodeNoRoot:
		return http.StatusForbidden
	case p2p.CodeOlder, p2p.CodeConflict, p2p.CodeNotReady, p2p.CodeInUse, p2p.CodeEquivocal, p2p.CodeHeld:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}
