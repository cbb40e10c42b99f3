package p2p

import "errors"

// Error is a failure that a person can do something about. Its text says what went wrong, Hint what to do next.
type Error struct {
	Code string // stable, for programs: see the Code constants
	Err  error
	Hint string
}

// Codes of Error; cmd turns them into exit codes.
const (
	CodeInUse     = "in-use"    // another process has this home
	CodeNoRoot    = "no-root"   // no trust root yet
	CodeRefused   = "refused"   // a document was refused by its signatures or rules
	CodeOlder     = "older"     // not newer than what is here
	CodeNotFound  = "not-found" // no such product, release, image or blob here
	CodeNotReady  = "not-ready" // nothing staged to apply, nothing to go back to
	CodeTimeout   = "timeout"   // waited long enough
	CodeNoSpace   = "no-space"  // disk full
	CodeReadOnly  = "read-only" // home or image cannot be written
	CodeBadInput  = "bad-input" // a name, tree, file or address that cannot be used
	CodeOffline   = "offline"   // needs a running node
	CodeCorrupt   = "corrupt"   // verify found damage that could not be repaired
	CodeHeld      = "held"      // a hold is on: nothing is applied
	CodeUnhealthy = "unhealthy" // a release failed its health checks
	CodeConflict  = "conflict"  // e.g. an image that another product uses
	CodeEquivocal = "equivocal" // two releases claim one number
	CodeTooNew    = "too-new"   // needs a newer satchel
)

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func fail(code, hint string, err error) error {
	return &Error{Code: code, Err: err, Hint: hint}
}

// HintOf returns the advice that goes with err, or "".
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}

// CodeOf returns the code of err, or "".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
