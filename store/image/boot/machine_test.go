package boot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"satchel/store/image/boot"
)

const (
	bootA = "0b7e6a4f-5a2e-4c79-9d0b-6a1f3f0f7c11"
	bootB = "ffffffff-5a2e-4c79-9d0b-6a1f3f0f7c11"
)

// brief is a record in a few words.
func brief(r boot.Record) string {
	short := func(id string) string {
		switch id {
		case live:
			return "L"
		case previous:
			return "P"
		case trial:
			return "T"
		case "":
			return "-"
		}
		return id
	}
	s := fmt.Sprintf("live %s previous %s trial %s %d booted %s", short(r.Live), short(r.Previous), short(r.Trial), r.Tries, short(r.Booted))
	for _, f := range r.Failed {
		s += " failed " + short(f.ID)
	}
	return s
}

// step is a step of the machine in words, for tables.
func step(r boot.Record, words string) (next boot.Record, use string, err error) {
	ids := map[string]string{"L": live, "P": previous, "T": trial, "-": ""}
	verb, arg, _ := strings.Cut(words, " ")
	switch verb {
	case "arm":
		r, err = r.Arm(ids[arg], 2)
	case "unarm":
		r = r.Unarm()
	case "confirm":
		r, err = r.Confirm(bootA)
	case "confirm-later":
		r, err = r.Confirm(bootB)
	case "fail":
		r, err = r.Fail("because")
	case "activate":
		r = r.Activate(ids[arg])
	case "rollback":
		r, err = r.Rollback()
	case "forgive":
		r = r.Forgive(ids[arg])
	case "select", "select-without":
		r, use = r.Select(func(id string) bool { return verb == "select" || !slices.Contains(strings.Fields(arg), briefID(id)) }, bootA)
	}
	return r, use, err
}

func briefID(id string) string {
	return map[string]string{live: "L", previous: "P", trial: "T"}[id]
}

func TestMachine(t *testing.T) {
	start := boot.Record{Generation: 1, Live: live, Previous: previous}
	for _, c := range []struct {
		name, steps, want string
		use               string // of the last step
		err               error  // of the last step
	}{
		{"a boot without a trial", "select", "live L previous P trial - 0 booted L", live, nil},
		{"armed", "arm T", "live L previous P trial T 2 booted -", "", nil},
		{"armed twice", "arm T, arm T", "live L previous P trial T 2 booted -", "", nil},
		{"first try", "arm T, select", "live L previous P trial T 1 booted T", trial, nil},
		{"second try", "arm T, select, select", "live L previous P trial T 0 booted T", trial, nil},
		{"no try left", "arm T, select, select, select", "live L previous P trial - 0 booted L failed T", live, nil},
		{"failed is not entered again", "arm T, select, select, select, select", "live L previous P trial - 0 booted L failed T", live, nil},
		{"failed is not armed again", "arm T, fail, arm T", "live L previous P trial - 0 booted - failed T", "", boot.ErrFailed},
		{"forgiven", "arm T, fail, forgive T, arm T", "live L previous P trial T 2 booted -", "", nil},
		{"confirmed", "arm T, select, confirm", "live T previous L trial - 0 booted T", "", nil},
		{"confirmed at the last try", "arm T, select, select, confirm", "live T previous L trial - 0 booted T", "", nil},
		{"confirmed twice", "arm T, select, confirm, confirm", "live T previous L trial - 0 booted T", "", nil},
		{"confirmed without a boot", "arm T, confirm", "live L previous P trial T 2 booted -", "", boot.ErrNotBooted},
		{"confirmed from the old system", "select, arm T, confirm", "live L previous P trial T 2 booted L", "", boot.ErrNotBooted},
		{"confirmed in a later boot that could not write", "arm T, select, confirm-later", "live L previous P trial T 1 booted T", "", boot.ErrNotBooted},
		{"confirmed after it failed", "arm T, select, fail, confirm", "live L previous P trial - 0 booted T failed T", "", nil},
		{"armed anew while it runs", "arm T, select, arm P, confirm", "live L previous P trial P 2 booted T", "", boot.ErrNotBooted},
		{"failed by itself", "arm T, select, fail, select", "live L previous P trial - 0 booted L failed T", live, nil},
		{"nothing to fail", "fail", "live L previous P trial - 0 booted -", "", boot.ErrNoTrial},
		{"given up", "arm T, unarm, select", "live L previous P trial - 0 booted L", live, nil},
		{"armed what is live", "arm T, arm L, select", "live L previous P trial - 0 booted L", live, nil},
		{"the previous one on trial", "arm P, select, confirm", "live P previous L trial - 0 booted P", "", nil},
		{"trial is gone", "arm T, select-without T", "live L previous P trial - 0 booted L failed T", live, nil},
		{"trial and live are gone", "arm T, select-without T L", "live L previous P trial - 0 booted P failed T", previous, nil},
		{"live is gone", "select-without L", "live L previous P trial - 0 booted P", previous, nil},
		{"all is gone", "select-without L P T", "live L previous P trial - 0 booted -", "", nil},
		{"activated during a trial", "arm T, activate P, select", "live P previous L trial - 0 booted P", previous, nil},
		{"activated what failed", "arm T, fail, activate T", "live T previous L trial - 0 booted -", "", nil},
		{"rolled back", "rollback", "live P previous L trial - 0 booted -", "", nil},
		{"rolled back twice", "rollback, rollback", "live L previous P trial - 0 booted -", "", nil},
	} {
		r, use, err := start, "", error(nil)
		for _, s := range strings.Split(c.steps, ", ") {
			if err != nil {
				t.Errorf("%s: before %s: %v", c.name, s, err)
			}
			r, use, err = step(r, s)
		}
		if got := brief(r); got != c.want || use != c.use || !errors.Is(err, c.err) {
			t.Errorf("%s: %s, uses %q, %v\nwant %s, %q, %v", c.name, got, use, err, c.want, c.use, c.err)
		}
	}
}

func TestMachineErrors(t *testing.T) {
	r := boot.Record{Live: live}
	if _, err := r.Rollback(); !errors.Is(err, boot.ErrNoPrevious) {
		t.Error(err)
	}
	if _, err := (boot.Record{}).Confirm(bootA); !errors.Is(err, boot.ErrNoTrial) {
		t.Error(err)
	}
	for _, tries := range []int{-1, 0, boot.MaxTries + 1} {
		if _, err := r.Arm(trial, tries); err == nil {
			t.Errorf("armed with %d tries", tries)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "x.tmp", "x.toml", "-", "A", "a-1-02-aaaaaaaa", strings.Repeat("a", 65)} {
		if _, err := r.Arm(id, 1); err == nil {
			t.Errorf("armed %q", id)
		}
	}
	if r, err := r.Arm("before-exam", 1); err != nil || r.Trial != "before-exam" {
		t.Error(r, err)
	}
}

func TestFloors(t *testing.T) {
	var r boot.Record
	set := func(f boot.Floor) (err error) {
		old := r
		r, err = r.SetFloor(f)
		if err == nil && slices.ContainsFunc(old.Floors, func(f boot.Floor) bool { return floor(r, f.Product) == (boot.Floor{}) }) {
			t.Error("a floor was lost")
		}
		return err
	}
	for _, f := range []boot.Floor{{"b", 1, 5}, {"a", 2, 1}, {"b", 1, 4}, {"b", 0, 9}, {"b", 2, 0}, {"b", 1, 99}} {
		must(t, set(f))
	}
	if want := []boot.Floor{{"a", 2, 1}, {"b", 2, 0}}; !slices.Equal(r.Floors, want) {
		t.Errorf("floors are %v, want %v", r.Floors, want)
	}
	for i := len(r.Floors); i < boot.MaxFloors; i++ {
		must(t, set(boot.Floor{Product: fmt.Sprint("p", i)}))
	}
	if err := set(boot.Floor{Product: "one-more"}); !errors.Is(err, boot.ErrFull) {
		t.Error(err)
	}
	if err := set(boot.Floor{Product: "A"}); err == nil {
		t.Error("took a floor of what is no product")
	}
}

func floor(r boot.Record, product string) boot.Floor {
	for _, f := range r.Floors {
		if f.Product == product {
			return f
		}
	}
	return boot.Floor{}
}

// TestMachineProperties takes random steps. What is live changes only by a confirmation of what was booted, or by hand; a trial is
// entered no more often than it was armed for; what failed is never entered; every record can be written.
func TestMachineProperties(t *testing.T) {
	ids := []string{live, previous, trial, "before-exam"}
	rapid.Check(t, func(t *rapid.T) {
		r := boot.Record{Generation: 1}
		entered, armed := 0, 0 // of the trial
		pick := func(t *rapid.T) string { return rapid.SampledFrom(ids).Draw(t, "id") }
		t.Repeat(map[string]func(*rapid.T){
			"arm": func(t *rapid.T) {
				tries := rapid.IntRange(1, boot.MaxTries).Draw(t, "tries")
				if next, err := r.Arm(pick(t), tries); err == nil {
					r, entered, armed = next, 0, tries
				}
			},
			"select": func(t *rapid.T) {
				there := rapid.SliceOfDistinct(rapid.SampledFrom(ids), rapid.ID[string]).Draw(t, "there")
				next, use := r.Select(func(id string) bool { return slices.Contains(there, id) }, bootA)
				if use != "" && !slices.Contains(there, use) || next.Live != r.Live || next.Previous != r.Previous || next.Booted != use {
					t.Fatalf("%v, then %v, uses %q of %q", r, next, use, there)
				}
				if use != "" && use != r.Live && use != r.Previous && use != r.Trial || r.HasFailed(use) && use != r.Previous {
					t.Fatalf("%v uses %q", r, use)
				}
				if use == r.Trial && use != "" && use != r.Live && use != r.Previous {
					if entered++; entered > armed {
						t.Fatalf("entered %d times, armed for %d", entered, armed)
					}
				}
				r = next
			},
			"confirm": func(t *rapid.T) {
				next, err := r.Confirm(bootA)
				if err == nil && next.Live != r.Live && (next.Live != r.Booted || next.Previous != r.Live) {
					t.Fatalf("%v was confirmed to %v", r, next)
				}
				r = next
			},
			"fail": func(t *rapid.T) {
				if next, err := r.Fail(rapid.String().Draw(t, "why")); err == nil {
					if next.Live != r.Live || next.Trial != "" || !next.HasFailed(r.Trial) {
						t.Fatalf("%v failed to %v", r, next)
					}
					r = next
				}
			},
			"activate": func(t *rapid.T) { r = r.Activate(pick(t)) },
			"forgive":  func(t *rapid.T) { r = r.Forgive(pick(t)) },
			"rollback": func(t *rapid.T) { r, _ = r.Rollback() },
			"": func(t *rapid.T) {
				if r.Live != "" && r.HasFailed(r.Live) || r.Trial != "" && (r.Trial == r.Live || r.HasFailed(r.Trial)) {
					t.Fatalf("%+v", r)
				}
				got, err := boot.Parse(r.Encode())
				if err != nil || !got.Same(r) {
					t.Fatalf("%v: %+v became %+v", err, r, got)
				}
			},
		})
	})
}

func TestReject(t *testing.T) {
	one, two, three := "xo-os-1-1-aaaaaaaa", "xo-os-1-2-aaaaaaaa", "xo-os-1-3-aaaaaaaa"
	r := boot.Record{Live: two, Previous: one}
	bad := r.Activate(three)
	back, err := bad.Reject(one, "health check 10-net")
	if err != nil || back.Live != two || back.Previous != one || !back.HasFailed(three) {
		t.Errorf("rejecting gave %+v, %v", back, err)
	}
	if _, err := (boot.Record{Live: one}).Reject("", ""); !errors.Is(err, boot.ErrNoPrevious) {
		t.Errorf("rejecting the only one: %v", err)
	}
}
