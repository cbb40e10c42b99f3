package bus

import (
	"reflect"
	"testing"

	"satchel/p2p"
)

func rel(epoch, seq uint64) *p2p.ReleaseStatus {
	v := string(rune('0'+epoch)) + "." + string(rune('0'+seq))
	return &p2p.ReleaseStatus{Version: v, Epoch: epoch, Seq: seq, Deployment: "d" + v}
}

func urgent(r *p2p.ReleaseStatus) *p2p.ReleaseStatus {
	r.Urgent = true
	return r
}

// prod is a followed product with the releases it shows.
func prod(newest, ready, live, previous *p2p.ReleaseStatus) p2p.ProductStatus {
	return p2p.ProductStatus{Product: "a", Followed: true, Newest: newest, Ready: ready, Live: live, Previous: previous}
}

func pic(ps ...p2p.ProductStatus) *p2p.Status { return &p2p.Status{Products: ps} }

func sig(name string, args ...any) Signal { return Signal{name, append([]any{"a"}, args...)} }

func TestNews(t *testing.T) {
	r1, r2, r3 := rel(1, 1), rel(1, 2), rel(2, 1)
	found := func(r *p2p.ReleaseStatus) Signal { return sig("ReleaseFound", r.Version, r.Epoch, r.Seq, r.Urgent) }
	stagedSig := func(r *p2p.ReleaseStatus) Signal { return sig("Staged", r.Version, r.Epoch, r.Seq, r.Deployment) }
	ready := func(r *p2p.ReleaseStatus) Signal { return sig("ReleaseReady", r.Version, r.Epoch, r.Seq, r.Urgent) }
	active := func(r *p2p.ReleaseStatus) Signal { return sig("Activated", r.Version, r.Epoch, r.Seq) }
	failed := prod(r1, nil, nil, nil)
	failed.Error = "opening the image"
	other := prod(r1, nil, nil, nil)
	other.Product = "b"
	for _, c := range []struct {
		name          string
		before, after *p2p.Status
		want          []Signal
	}{
		{"nothing", pic(), pic(), nil},
		{"no change", pic(prod(r2, r2, r1, nil)), pic(prod(r2, r2, r1, nil)), nil},
		{"a product without release", pic(), pic(prod(nil, nil, nil, nil)), nil},
		{"first release", pic(prod(nil, nil, nil, nil)), pic(prod(r1, nil, nil, nil)), []Signal{found(r1)}},
		{"newer seq", pic(prod(r1, nil, r1, nil)), pic(prod(r2, nil, r1, nil)), []Signal{found(r2)}},
		{"newer epoch, smaller seq", pic(prod(r2, nil, r1, nil)), pic(prod(r3, nil, r1, nil)), []Signal{found(r3)}},
		{"older is no news", pic(prod(r3, nil, r1, nil)), pic(prod(r2, nil, r1, nil)), nil},
		{"withdrawn", pic(prod(r2, nil, r1, nil)), pic(prod(nil, nil, r1, nil)), nil},
		{"turns urgent", pic(prod(r2, nil, r1, nil)), pic(prod(urgent(rel(1, 2)), nil, r1, nil)), []Signal{found(urgent(rel(1, 2)))}},
		{"urgency expires", pic(prod(urgent(rel(1, 2)), nil, r1, nil)), pic(prod(r2, nil, r1, nil)), nil},
		{"staged", pic(prod(r2, nil, r1, nil)), pic(prod(r2, r2, r1, nil)), []Signal{stagedSig(r2), ready(r2)}},
		{"staged, urgent", pic(prod(urgent(rel(1, 2)), nil, r1, nil)), pic(prod(urgent(rel(1, 2)), r2, r1, nil)),
			[]Signal{stagedSig(r2), ready(urgent(rel(1, 2)))}},
		{"found and staged at once", pic(prod(r1, nil, r1, nil)), pic(prod(r2, r2, r1, nil)), []Signal{found(r2), stagedSig(r2), ready(r2)}},
		{"another one is ready", pic(prod(r2, r2, r1, nil)), pic(prod(r3, r3, r1, nil)), []Signal{found(r3), stagedSig(r3), ready(r3)}},
		{"applied", pic(prod(r2, r2, r1, nil)), pic(prod(r2, nil, r2, r1)), []Signal{active(r2)}},
		{"applied for the first time", pic(prod(r1, r1, nil, nil)), pic(prod(r1, nil, r1, nil)), []Signal{active(r1)}},
		{"all at once", pic(prod(r1, nil, r1, nil)), pic(prod(r2, nil, r2, r1)), []Signal{found(r2), stagedSig(r2), active(r2)}},
		{"applied, and the next is ready", pic(prod(r2, r2, r1, nil)), pic(prod(r3, r3, r2, r1)),
			[]Signal{found(r3), stagedSig(r3), ready(r3), active(r2)}},
		{"rolled back", pic(prod(r2, nil, r2, r1)), pic(prod(r2, r2, r1, r2)), []Signal{sig("RolledBack", "1.2", "1.1")}},
		{"rolled back over an epoch", pic(prod(r3, nil, r3, r2)), pic(prod(r3, r3, r2, r3)), []Signal{sig("RolledBack", "2.1", "1.2")}},
		{"forward again by roll back", pic(prod(r2, nil, r1, r2)), pic(prod(r2, nil, r2, r1)), []Signal{active(r2)}},
		{"applied again", pic(prod(r2, r2, r1, r2)), pic(prod(r2, nil, r2, r1)), []Signal{active(r2)}},
		{"the image goes away", pic(prod(r1, nil, r1, nil)), pic(failed), nil},
		{"the image is back", pic(failed), pic(prod(r1, nil, r1, nil)), nil},
		{"followed no longer", pic(prod(r1, nil, r1, nil)), pic(), nil},
		{"each product by itself", pic(other), pic(prod(r1, nil, nil, nil), other), []Signal{found(r1)}},
	} {
		if got := News(c.before, c.after); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %v\nwant %v", c.name, got, c.want)
		}
		if again := News(c.after, c.after); again != nil {
			t.Errorf("%s: told again: %v", c.name, again)
		}
	}
}
