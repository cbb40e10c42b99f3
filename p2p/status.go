package p2p

import "time"

// The types of this file are what "satchel status --json" prints and what the control socket answers.
// Field names are stable: a field may be added, none is renamed or removed. Sizes are bytes, times are
// RFC 3339 or seconds, a rate is bytes a second.

// Status is one picture of a node, taken at Time.
type Status struct {
	Time       time.Time       `json:"time"`
	Home       string          `json:"home"`
	Running    bool            `json:"running"` // a node serves this home; false when read without one
	Node       NodeStatus      `json:"node"`
	Root       RootStatus      `json:"root"`
	Neighbours []Neighbour     `json:"neighbours"`
	Products   []ProductStatus `json:"products"`
	Store      StoreStatus     `json:"store"`
	Clock      ClockStatus     `json:"clock"`
	Hold       *HoldStatus     `json:"hold,omitempty"` // nothing is applied
}

// HoldStatus says until when live trees stay as they are.
type HoldStatus struct {
	Until  time.Time `json:"until"` // by this machine's clock when it was asked for
	Left   int64     `json:"left_seconds"`
	Reason string    `json:"reason,omitempty"`
}

// NodeStatus is who this node is and what it has moved since it started.
type NodeStatus struct {
	ID            string   `json:"id"`
	PID           int      `json:"pid"`
	Version       string   `json:"version"`
	UptimeSeconds int64    `json:"uptime_seconds"`
	Addrs         []string `json:"addrs"`
	Catalog       string   `json:"catalog"`        // digest of the catalog, hexadecimal: equal digests know the same
	BytesSent     uint64   `json:"bytes_sent"`     // content served to neighbours
	BytesReceived uint64   `json:"bytes_received"` // content fetched from neighbours, duplicates too
	Discovery     bool     `json:"discovery"`      // looks for neighbours by beacon
	Timestamps    bool     `json:"timestamps"`     // signs timestamps
	TimestampErr  string   `json:"timestamp_error,omitempty"`
}

// RootStatus is the trust root this home believes; Version 0 is none.
type RootStatus struct {
	Version  uint64   `json:"version"`
	Keys     int      `json:"keys"`
	Products []string `json:"products"`           // name patterns
	RenewBy  int64    `json:"renew_by,omitempty"` // unix seconds; people are warned after it
	Rival    bool     `json:"rival,omitempty"`    // the root keys signed another root of this version, too
}

// ClockStatus is how this machine's clock stands to what is signed. Nothing that is installed depends on it.
type ClockStatus struct {
	State    string `json:"state"`    // plausible, wrong or unproved
	Earliest int64  `json:"earliest"` // unix seconds: it cannot be earlier; 0: nothing says
}

// The states of a clock.
const (
	ClockPlausible = "plausible" // not before what is signed, and less than two years after it
	ClockWrong     = "wrong"     // before what is signed, or long after it
	ClockUnproved  = "unproved"  // nothing that is signed tells a time
)

// FreshStatus says whether the newest release here is known to be the newest there is.
type FreshStatus struct {
	State      string `json:"state"`           // fresh, stale or unknown
	AsOf       int64  `json:"as_of,omitempty"` // unix seconds of the youngest timestamp that knows nothing newer
	NewerEpoch uint64 `json:"newer_epoch,omitempty"`
	NewerSeq   uint64 `json:"newer_seq,omitempty"` // a timestamp names this release, which has not come here
	Expired    bool   `json:"expired,omitempty"`
}

// Neighbour is a node that this one is connected to.
type Neighbour struct {
	ID               string `json:"id"`
	Addr             string `json:"addr"`
	Source           string `json:"source"` // beacon, configured, remembered or incoming
	ConnectedSeconds int64  `json:"connected_seconds"`
	Catalog          string `json:"catalog"` // same, differs, unknown, or "other root": it belongs to another mesh
	BytesFrom        uint64 `json:"bytes_from"`
	BytesTo          uint64 `json:"bytes_to"`
}

// The states of a product on this machine.
//
//	none ──announced──► known ──followed or carried──► fetching ──► staging ──► ready ──apply──► active
//	                                                      │            │          (carried only: held)
//	                                                      └── failed ◄─┘   tried again by itself
const (
	StateNone     = "none"     // no release known here
	StateKnown    = "known"    // a release is known, nobody asked for its content
	StateFetching = "fetching" // content is on its way
	StateStaging  = "staging"  // content is whole, the tree is being laid down
	StateReady    = "ready"    // the newest release is staged beside the live one
	StateActive   = "active"   // the newest release is live
	StateHeld     = "held"     // carried or published here: content is whole here and passed on
	StateFailed   = "failed"   // see Error and Hint; tried again by itself
	StateArmed    = "armed"    // the newest release is tried at the next boot
	StateTrying   = "trying"   // the machine has booted into it, and has not confirmed it yet
	StateRejected = "rejected" // it failed its trial on this machine, and is not tried again by itself
	StateRefused  = "refused"  // two releases claim one number: neither is taken
)

// ProductStatus is one product as this machine sees it.
type ProductStatus struct {
	Product   string         `json:"product"`
	State     string         `json:"state"`
	Followed  bool           `json:"followed"`
	Carried   bool           `json:"carried"`
	Published bool           `json:"published"` // announced from this home
	Image     string         `json:"image,omitempty"`
	Policy    string         `json:"policy,omitempty"`   // of the image: ask, auto or never
	Newest    *ReleaseStatus `json:"newest,omitempty"`   // newest accepted announcement
	Ready     *ReleaseStatus `json:"ready,omitempty"`    // staged and newer than live
	Live      *ReleaseStatus `json:"live,omitempty"`     // what IMAGE/current shows
	Previous  *ReleaseStatus `json:"previous,omitempty"` // what rollback goes back to
	Trial     *ReleaseStatus `json:"trial,omitempty"`    // armed for the next boot, or being tried
	Fetch     *FetchStatus   `json:"fetch,omitempty"`    // the fetch of Newest, while it runs and after
	Error     string         `json:"error,omitempty"`
	Hint      string         `json:"hint,omitempty"`

	Freshness *FreshStatus    `json:"freshness,omitempty"` // absent without a trust root
	Claims    []ReleaseStatus `json:"claims,omitempty"`    // the releases that claim one number, when refused
}

// ReleaseStatus names one release. Version is for people; only (Epoch, Seq) orders releases.
type ReleaseStatus struct {
	Version      string `json:"version"`
	Epoch        uint64 `json:"epoch"`
	Seq          uint64 `json:"seq"`
	Manifest     string `json:"manifest"`
	ManifestSize uint64 `json:"manifest_size,omitempty"`
	TotalSize    uint64 `json:"total_size,omitempty"`
	Urgent       bool   `json:"urgent,omitempty"`
	Issued       int64  `json:"issued,omitempty"`
	Recall       bool   `json:"recall,omitempty"` // older content under a newer number
	Deployment   string `json:"deployment,omitempty"`
	Product      string `json:"product,omitempty"` // where it is one of several
	When         string `json:"when,omitempty"`    // after apply and rollback: now, next boot or nothing
}

// FetchStatus is what a fetch moves. Total = Had + Needed; what is needed comes from Local copies or is Fetched.
type FetchStatus struct {
	Phase          string            `json:"phase"` // manifest, lists, local, chunks or done
	BytesTotal     uint64            `json:"bytes_total"`
	BytesHad       uint64            `json:"bytes_had"`       // whole blobs that were here before
	BytesLocal     uint64            `json:"bytes_local"`     // chunks copied from other blobs here
	BytesNeeded    uint64            `json:"bytes_needed"`    // still to be fetched
	BytesFetched   uint64            `json:"bytes_fetched"`   // from neighbours, verified
	BytesDuplicate uint64            `json:"bytes_duplicate"` // arrived twice, dropped
	BytesCorrupt   uint64            `json:"bytes_corrupt"`   // failed verification, dropped
	BytesDocuments uint64            `json:"bytes_documents"` // manifest and chunk lists among the fetched
	BytesBySource  map[string]uint64 `json:"bytes_by_source"` // fetched, by node id
	RateBytes      float64           `json:"rate_bytes_per_second"`
	EndsInSeconds  float64           `json:"ends_in_seconds,omitempty"` // at the present rate; absent when unknown
}

// StoreStatus is what the store takes and what is left on its disk.
type StoreStatus struct {
	Blobs     int    `json:"blobs"`
	Bytes     uint64 `json:"bytes"`
	FreeBytes uint64 `json:"free_bytes"`
}
