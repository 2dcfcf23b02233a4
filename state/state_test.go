package state_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/state/statetest"
)

const (
	envOpen = "REGKEEPER_TEST_OPEN"
	envSave = "REGKEEPER_TEST_SAVE"
)

// TestMain lets the test binary run itself as another regkeeper.
func TestMain(m *testing.M) {
	// Under the race detector a program sleeps for a second as it ends.
	_ = os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	if folder := os.Getenv(envOpen); folder != "" {
		file, err := state.Open(folder)
		fmt.Printf("%s|%v\n", problem.KindOf(err), err)
		if err != nil {
			os.Exit(1)
		}
		for i := 0; os.Getenv(envSave) != ""; i++ {
			doc := state.New()
			doc.Registry("h").Current = &state.Credential{Credential: credential.Credential{ID: strconv.Itoa(i), Secret: credential.NewSecret(strings.Repeat("s", 5000))}}
			if err := file.Save(nil, doc); err != nil { //nolint:staticcheck // no context is needed
				fmt.Println(err)
				os.Exit(1)
			}
		}
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEncodeForgetsNoField(t *testing.T) {
	checkRoundTrip(t, statetest.Full())
	checkRoundTrip(t, state.New())
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func checkRoundTrip(t fataler, doc *state.Document) {
	t.Helper()
	text, err := state.Encode(doc)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	again, err := state.Decode(text)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if diff := cmp.Diff(doc, again, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("document (-want +got):\n%s", diff)
	}
	second, err := state.Encode(again)
	if err != nil || !bytes.Equal(text, second) {
		t.Fatalf("encoded again, %v, it differs:\n%s", err, cmp.Diff(string(text), string(second)))
	}
}

func genDocument() *rapid.Generator[*state.Document] {
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns"))
	})
	text := rapid.String()
	login := rapid.Custom(func(t *rapid.T) *state.Credential {
		return &state.Credential{
			Credential: credential.Credential{
				ID: text.Draw(t, "id"), Name: text.Draw(t, "name"), Host: credential.Host(text.Draw(t, "host")), Username: text.Draw(t, "user"),
				Secret: credential.NewSecret(string(rapid.SliceOf(rapid.Byte()).Draw(t, "secret"))),
				Scopes: credential.ScopesOf(rapid.SliceOf(rapid.SampledFrom([]credential.Scope{credential.Pull, credential.Push, "x"})).Draw(t, "scopes")...),
				Issued: moment.Draw(t, "issued"), Expires: moment.Draw(t, "expires"),
			},
			Origin: text.Draw(t, "origin"),
		}
	})
	trouble := rapid.Custom(func(t *rapid.T) *state.Trouble {
		return &state.Trouble{Text: text.Draw(t, "text"), Hint: text.Draw(t, "hint"), Since: moment.Draw(t, "since")}
	})
	return rapid.Custom(func(t *rapid.T) *state.Document {
		doc := state.New()
		for range rapid.IntRange(0, 3).Draw(t, "registries") {
			r := doc.Registry(credential.Host(text.Draw(t, "host")))
			r.Next, r.Current = rapid.Ptr(rapid.Deferred(func() *rapid.Generator[state.Credential] {
				return rapid.Map(login, func(c *state.Credential) state.Credential { return *c })
			}), true).Draw(t, "next"), login.Draw(t, "current")
			if rapid.Bool().Draw(t, "intent") {
				r.Intent = &state.Intent{Name: text.Draw(t, "intent"), At: moment.Draw(t, "at")}
			}
			for range rapid.IntRange(0, 2).Draw(t, "retired") {
				r.Retired = append(r.Retired, &state.Retired{Credential: *login.Draw(t, "retired"), Since: moment.Draw(t, "since"), Left: moment.Draw(t, "left")})
			}
			r.Verified = moment.Draw(t, "verified")
			r.Proof = credential.Proof{Image: text.Draw(t, "image"), Realm: text.Draw(t, "realm")}
			if rapid.Bool().Draw(t, "trouble") {
				r.Trouble = trouble.Draw(t, "trouble")
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "places") {
			p := doc.Place(text.Draw(t, "target"), credential.Place(text.Draw(t, "place")))
			p.Delivered, p.Verified = moment.Draw(t, "delivered"), moment.Draw(t, "verified")
			if rapid.Bool().Draw(t, "trouble") {
				p.Trouble = trouble.Draw(t, "trouble")
			}
		}
		return doc
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) { checkRoundTrip(rt, genDocument().Draw(rt, "document")) })
}

// TestCutFile cuts the document at every byte.
func TestCutFile(t *testing.T) {
	doc := statetest.Full()
	text, err := state.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	path := filepath.Join(folder, "state.json")
	for n := range text {
		part := text[:n]
		if n == len(text)-1 {
			break // only the line break at the end is missing
		}
		if got, err := state.Decode(part); err == nil {
			t.Fatalf("cut at byte %d of %d it decodes as %v", n, len(text), got)
		}
		if n%7 == 0 || n == 0 {
			if err := os.WriteFile(path, part, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := state.Read(folder)
			if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" || strings.Contains(err.Error(), statetest.Marker) {
				t.Fatalf("cut at byte %d of %d, Read says %v of kind %s", n, len(text), err, problem.KindOf(err))
			}
			if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, part) {
				t.Fatalf("the damaged file became %q, %v", left, err)
			}
		}
	}
	for _, text := range []string{"null", "{}", "[]", "\x00", `{"registries":{}}`, `{"places":{}}`, `{"registries":null,"places":null}`, string(text) + "{}",
		`{"registries":{"h":{"retired":[null]}},"places":{}}`, strings.Repeat("\x00", 4096)} {
		if doc, err := state.Decode([]byte(text)); err == nil {
			t.Errorf("%.40q decodes as %v", text, doc)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, doc := range []*state.Document{statetest.Full(), state.New()} {
		text, err := state.Encode(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"registries":{"h":null},"places":{"t":null,"u":{"p":{}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := state.Decode(text)
		if err != nil {
			return
		}
		out, err := state.Encode(doc)
		if err != nil {
			return // a year that RFC 3339 has no digits for
		}
		again, err := state.Decode(out)
		if err != nil {
			t.Fatalf("%q is encoded as %q: %v", text, out, err)
		}
		if diff := cmp.Diff(doc, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q (-want +got):\n%s", text, diff)
		}
	})
}

func open(t *testing.T, folder string) *state.File {
	t.Helper()
	file, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestConformance(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "data")
	before := func() error { return nil }
	statetest.Run(t, func(t *testing.T) state.Store {
		if err := before(); err != nil {
			t.Fatal(err)
		}
		file := open(t, folder)
		before = file.Close
		return file
	})
}

func TestFile(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "data")
	file := open(t, folder)
	doc, err := file.Load(t.Context())
	if err != nil || doc.Registries == nil || doc.Places == nil {
		t.Fatalf("first Load gives %v, %v", doc, err)
	}
	want := statetest.Full()
	if err := file.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	for name, load := range map[string]func() (*state.Document, error){
		"Load": func() (*state.Document, error) { return file.Load(t.Context()) },
		"Read": func() (*state.Document, error) { return state.Read(folder) },
	} {
		got, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	text, err := os.ReadFile(filepath.Join(folder, "state.json"))
	if err != nil || !bytes.Contains(text, []byte(statetest.Marker)) {
		t.Errorf("the file does not hold the secret: %v", err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode of %s is %v, %v", entry.Name(), info.Mode(), err)
		}
		if strings.Contains(entry.Name(), "tmp") {
			t.Errorf("%s was left behind", entry.Name())
		}
	}
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the folder is %v, %v", info.Mode(), err)
	}
}

func TestOnlyOneHasTheFolder(t *testing.T) {
	folder := t.TempDir()
	file := open(t, folder)
	check := func(kind problem.Kind, text string) {
		t.Helper()
		if kind != problem.Busy || !strings.Contains(text, "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(text, folder) {
			t.Errorf("second Open says %q of kind %s, want it to name process %d", text, kind, os.Getpid())
		}
	}
	_, err := state.Open(folder)
	check(problem.KindOf(err), fmt.Sprint(err))
	if problem.HintOf(err) == "" {
		t.Error("no hint")
	}
	command := exec.CommandContext(t.Context(), os.Args[0])
	command.Env = append(os.Environ(), envOpen+"="+folder)
	out, _ := command.Output()
	kind, text, _ := strings.Cut(string(out), "|")
	check(problem.Kind(kind), text)
	// To look takes no lock.
	if _, err := state.Read(folder); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, folder)
}

// TestCrash kills a process that saves all the time, again and again.
func TestCrash(t *testing.T) {
	folder := t.TempDir()
	for range 5 {
		command := exec.CommandContext(t.Context(), os.Args[0])
		command.Env = append(os.Environ(), envOpen+"="+folder, envSave+"=1")
		before, _ := os.Stat(filepath.Join(folder, "state.json"))
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for {
			now, err := os.Stat(filepath.Join(folder, "state.json"))
			if err == nil && (before == nil || !os.SameFile(before, now)) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("it never saved")
			}
			time.Sleep(time.Millisecond)
		}
		if err := command.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = command.Wait()
		doc, err := state.Read(folder)
		if err != nil || doc.Registries["h"] == nil || doc.Registries["h"].Current.Secret.Reveal() != strings.Repeat("s", 5000) {
			t.Fatalf("after a crash: %v", err)
		}
	}
	// Whatever such a crash leaves, or a worse one, the next one starts.
	if err := os.WriteFile(filepath.Join(folder, ".tmp-state.json123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := open(t, folder)
	if _, err := file.Load(t.Context()); err != nil {
		t.Error(err)
	}
	if err := file.Save(t.Context(), statetest.Full()); err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := state.Open(filepath.Join(file, "data"))
	if problem.KindOf(err) != problem.Storage || problem.HintOf(err) == "" {
		t.Errorf("Open says %v of kind %s", err, problem.KindOf(err))
	}
	if err := os.Mkdir(filepath.Join(folder, "state.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Read(folder); problem.KindOf(err) != problem.Storage || !strings.Contains(problem.HintOf(err), "folder stands") {
		t.Errorf("Read says %v of kind %s, hint %q", err, problem.KindOf(err), problem.HintOf(err))
	}
	if err := open(t, folder).Save(t.Context(), state.New()); problem.KindOf(err) != problem.Storage {
		t.Errorf("Save says %v of kind %s", err, problem.KindOf(err))
	}
}

func TestInstance(t *testing.T) {
	folder := t.TempDir()
	id, err := state.Instance(folder)
	if err != nil || len(id) < 16 {
		t.Fatalf("id %q, %v", id, err)
	}
	for range 3 {
		if again, err := state.Instance(folder); err != nil || again != id {
			t.Fatalf("id became %q, %v", again, err)
		}
	}
	if other, err := state.Instance(t.TempDir()); err != nil || other == id {
		t.Errorf("another folder has id %q, %v", other, err)
	}
	path := filepath.Join(folder, "instance")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	for _, text := range []string{"", "\n", " \t\r\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := state.Instance(folder)
		if got != "" || problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" {
			t.Errorf("of the file %q the id is %q, %v", text, got, err)
		}
		if left, err := os.ReadFile(path); err != nil || string(left) != text {
			t.Errorf("the empty file became %q, %v", left, err)
		}
	}
	if got, err := state.Instance(filepath.Join(folder, "none")); err == nil || got != "" {
		t.Errorf("an id that was not stored is returned: %q, %v", got, err)
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := state.Instance(folder); problem.KindOf(err) != problem.Storage {
		t.Errorf("of a folder it says %v", err)
	}
}

func TestClone(t *testing.T) {
	doc := statetest.Full()
	before, err := state.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	clone := doc.Clone()
	if diff := cmp.Diff(doc, clone, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("clone (-want +got):\n%s", diff)
	}
	for host, r := range clone.Registries {
		r.Retired[0].Left = time.Time{}
		r.Retired = append(r.Retired[:1], &state.Retired{})
		r.Current, r.Next, r.Intent, r.Trouble = nil, nil, nil, nil
		r.Verified, r.Proof = time.Time{}, credential.Proof{}
		delete(clone.Registries, host)
	}
	for target, places := range clone.Places {
		for _, p := range places {
			p.Delivered, p.Trouble = time.Time{}, nil
		}
		clone.Place(target, "new").Delivered = time.Now()
	}
	clone.Registry("new").Verified = time.Now()
	after, err := state.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		t.Errorf("a change of the clone changed the document:\n%s", diff)
	}
}

func TestPlaceAndRegistryAreMadeOnce(t *testing.T) {
	doc := state.New()
	registry, place := doc.Registry("h"), doc.Place("t", "p")
	if doc.Registry("h") != registry || doc.Place("t", "p") != place || doc.Place("u", "p") == place {
		t.Error("entries are made anew")
	}
}

// Who removes the lock lets another process in: the one before must not write
// any more.
func TestLockTakenAway(t *testing.T) {
	folder := t.TempDir()
	store, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := store.Held(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(folder, "lock")); err != nil {
		t.Fatal(err)
	}
	other, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	for what, err := range map[string]error{"Held": store.Held(t.Context()), "Save": store.Save(t.Context(), state.New())} {
		if problem.KindOf(err) != problem.Busy || problem.HintOf(err) == "" {
			t.Errorf("%s = %v, want a problem of kind busy with a hint", what, err)
		}
	}
	if err := other.Save(t.Context(), state.New()); err != nil {
		t.Error(err)
	}
}
