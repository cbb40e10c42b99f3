package bus

import (
	"cmp"
	"reflect"
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"

	"satchel/p2p"
)

// maxProducts is how many products the property lists at most: the followed ones first, then the carried ones.
const maxProducts = 128

// properties are the values of the interface's properties by name; the values' types are those of the XML.
type properties map[string]any

// pictureOf derives the properties from what is true now.
func pictureOf(st *p2p.Status) properties {
	p := properties{
		"State":        overall(st.Products),
		"Products":     productList(st.Products),
		"ProductCount": uint32(len(st.Products)),
		"HoldUntil":    int64(0),
		"HoldReason":   "",
		"Version":      text(st.Node.Version, maxName),
	}
	if h := st.Hold; h != nil {
		p["HoldUntil"], p["HoldReason"] = h.Until.Unix(), text(h.Reason, maxText)
	}
	return p
}

// states are what State may be, the least telling first.
var states = []string{"idle", p2p.StateFetching, p2p.StateStaging, p2p.StateFailed, p2p.StateReady, p2p.StateArmed, p2p.StateTrying}

// overall is the most telling state among the products that this machine follows or carries.
func overall(products []p2p.ProductStatus) string {
	most := 0
	for i := range products {
		p := &products[i]
		state := p.State
		if state == p2p.StateRefused || state == p2p.StateRejected {
			state = p2p.StateFailed
		}
		if p.Followed || p.Carried {
			most = max(most, slices.Index(states, state))
		}
	}
	return states[most]
}

func productList(products []p2p.ProductStatus) []map[string]dbus.Variant {
	rank := func(p *p2p.ProductStatus) int {
		switch {
		case p.Followed:
			return 0
		case p.Carried:
			return 1
		}
		return 2
	}
	some := make([]*p2p.ProductStatus, len(products))
	for i := range products {
		some[i] = &products[i]
	}
	slices.SortFunc(some, func(a, b *p2p.ProductStatus) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Product, b.Product))
	})
	out := []map[string]dbus.Variant{}
	for _, p := range some[:min(len(some), maxProducts)] {
		out = append(out, productEntry(p))
	}
	return out
}

func productEntry(p *p2p.ProductStatus) map[string]dbus.Variant {
	version := func(r *p2p.ReleaseStatus) string {
		if r == nil {
			return ""
		}
		return text(r.Version, maxName)
	}
	newest, fetch := cmp.Or(p.Newest, &p2p.ReleaseStatus{}), cmp.Or(p.Fetch, &p2p.FetchStatus{})
	entry := map[string]dbus.Variant{}
	for k, v := range map[string]any{
		"Product":       text(p.Product, maxName),
		"State":         text(p.State, maxName),
		"Followed":      p.Followed,
		"Carried":       p.Carried,
		"LiveVersion":   version(p.Live),
		"NewestVersion": version(p.Newest),
		"ReadyVersion":  version(p.Ready),
		"Epoch":         newest.Epoch,
		"Seq":           newest.Seq,
		"Urgent":        newest.Urgent,
		"BytesTotal":    cmp.Or(fetch.BytesTotal, newest.TotalSize),
		"BytesNeeded":   fetch.BytesNeeded,
		"BytesFetched":  fetch.BytesFetched,
		"Error":         public(p.Error),
		"Hint":          public(p.Hint),
	} {
		entry[k] = dbus.MakeVariant(v)
	}
	return entry
}

// shown is what clients read: the last picture. It is safe for concurrent use.
type shown struct {
	mu  sync.Mutex
	now properties // never changed, only replaced
}

// replace shows another picture and returns what is different in it.
func (s *shown) replace(next properties) map[string]dbus.Variant {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := map[string]dbus.Variant{}
	for name, v := range next {
		if !reflect.DeepEqual(v, s.now[name]) {
			changed[name] = dbus.MakeVariant(v)
		}
	}
	s.now = next
	return changed
}

func (s *shown) get() properties {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now
}
