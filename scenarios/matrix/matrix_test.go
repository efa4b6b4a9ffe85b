// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/syntax"
	"github.com/weirnet/weir/vmtest"
)

// The test's own binary stands for the command in guests: what a run there
// does to its kernel is in its name.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && slices.Equal(os.Args[1:3], []string{"scenario", "guest"}) {
		os.Exit(standIn())
	}
	os.Exit(m.Run())
}

func standIn() int {
	fmt.Println("ready")
	var j job
	if err := json.NewDecoder(os.Stdin).Decode(&j); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := &server{out: json.NewEncoder(os.Stdout)}
	for _, name := range j.Names {
		r := scenarios.Result{Scenario: name, Family: syntax.IPv4, World: j.World, Kernel: scenarios.Kernel(), Outcome: scenarios.Pass}
		s.mark(beginMark, r)
		harm(name, "during-")
		s.mark(endMark, r)
		s.tell(message{Result: &r})
		harm(name, "after-")
	}
	s.tell(message{Done: true})
	return 0
}

// harm does to the kernel what a name asks for at this time.
func harm(name, when string) {
	what, ok := strings.CutPrefix(name, when)
	if !ok {
		return
	}
	what, _, _ = strings.Cut(what, "/")
	var err error
	switch what {
	case "panic":
		err = os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	case "warning":
		err = os.WriteFile("/dev/kmsg", []byte("<4>WARNING: a test made it"), 0)
	case "exit":
		fmt.Fprintln(os.Stderr, "the program has had enough")
		os.Exit(3)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(4)
	}
}

// named makes scenarios that only have names, of world prog and IPv4.
func named(t *testing.T, names ...string) []*scenarios.Scenario {
	t.Helper()
	var all []*scenarios.Scenario
	for _, n := range names {
		s, err := scenarios.Parse(n+syntax.Suffix, []byte("# A test.\nworlds prog\nfamilies ipv4\ntopology two-pods\nping client -> web\n"))
		require.NoError(t, err)
		all = append(all, s)
	}
	return all
}

func kernel(t *testing.T, id string) *vmtest.Kernel {
	t.Helper()
	k, err := vmtest.Find(t.Context(), id, vmtest.FindOptions{})
	require.NoError(t, err)
	return k
}

func TestWhatAKernelSaysBelongsToOneScenario(t *testing.T) {
	all := named(t, "before", "during-panic", "between-1", "during-warning", "between-2", "after-panic", "between-3", "after-warning", "between-4", "during-exit", "last")
	k := kernel(t, "6.12")
	live := 0
	m := &Matrix{Kernels: []*vmtest.Kernel{k}, Runner: &scenarios.Runner{}, Own: true, Guests: 1, Live: func(scenarios.Result) { live++ }}
	found, err := m.Run(t.Context(), all)
	require.NoError(t, err)
	require.Len(t, found.Results, len(all), "every run has one result")
	require.Equal(t, len(all), live)
	outcome := map[string]scenarios.Result{}
	for _, r := range found.Results {
		outcome[strings.TrimSuffix(r.Scenario, "/ipv4")] = r
	}
	for name, words := range map[string]string{
		"during-panic":   "Kernel panic - not syncing: sysrq triggered crash",
		"after-panic":    "Kernel panic - not syncing: sysrq triggered crash",
		"during-warning": "WARNING: a test made it",
		"after-warning":  "WARNING: a test made it",
	} {
		require.Equal(t, scenarios.Fail, outcome[name].Outcome, name)
		require.Contains(t, outcome[name].Failure.Problem, words, name)
		require.Equal(t, k.Release, outcome[name].Kernel)
	}
	require.Equal(t, scenarios.Broken, outcome["during-exit"].Outcome)
	require.Contains(t, outcome["during-exit"].Reason, "ended with code 3")
	require.Contains(t, outcome["during-exit"].Failure.Problem, "the program has had enough")
	require.Equal(t, "weir scenario run --kernel 6.12 --world prog --run '^during-exit/ipv4$' during-exit.txtar", outcome["during-exit"].Failure.Repeat)
	for _, name := range []string{"before", "between-1", "between-2", "between-3", "between-4", "last"} {
		require.Equal(t, scenarios.Pass, outcome[name].Outcome, name)
	}
}

func TestAGuestThatCannotRunTheProgramBreaksAllItsRuns(t *testing.T) {
	program := t.TempDir() + "/weir"
	require.NoError(t, os.WriteFile(program, []byte("#!/nowhere\n"), 0o755))
	m := &Matrix{Kernels: []*vmtest.Kernel{kernel(t, "6.12")}, Runner: &scenarios.Runner{}, Own: true, Guests: 1, Program: program}
	found, err := m.Run(t.Context(), named(t, "one", "two"))
	if err != nil { // what cannot be carried into a guest is told at once
		require.ErrorContains(t, err, "nowhere")
		return
	}
	require.Len(t, found.Results, 2)
	for _, r := range found.Results {
		require.Equal(t, scenarios.Broken, r.Outcome)
		require.NotEmpty(t, r.Reason)
	}
}

func TestWhoeverStopsTheMatrixGetsNoResultsAfterwards(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m := &Matrix{Kernels: []*vmtest.Kernel{kernel(t, "6.12")}, Runner: &scenarios.Runner{}, Own: true, Guests: 1}
	cancel()
	found, err := m.Run(ctx, named(t, "one"))
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, found.Results)
}

func TestNothingToRunIsAnError(t *testing.T) {
	_, err := (&Matrix{Runner: &scenarios.Runner{}}).Run(t.Context(), named(t, "one"))
	require.ErrorIs(t, err, scenarios.ErrNothingRun)
}

func TestBlame(t *testing.T) {
	const log = "[ 1.0] weir: begin prog a/ipv4\n[ 1.1] weir: end prog a/ipv4\n[ 1.2] something\r\n[ 1.3] weir: begin prog b/ipv4\r\n[ 1.4] BUG: here\n[ 1.5] weir: end prog b/ipv4\n"
	for name, tt := range map[string]struct{ log, title, want string }{
		"during a run":                   {log, "BUG: here", "prog b/ipv4"},
		"behind a run":                   {log, "something", "prog a/ipv4"},
		"at the end":                     {log, "", "prog b/ipv4"},
		"a title that has been dropped":  {log, "OTHER", "prog b/ipv4"},
		"before any run":                 {"[ 0.1] BUG: here\n" + log, "BUG: here", ""},
		"a log that says nothing of us":  {"[ 0.1] x\n", "", ""},
		"a beginning without its ending": {"weir: begin netns c/ipv6\n", "", "netns c/ipv6"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tt.want, blame(tt.log, tt.title)) })
	}
}

func TestAWatcherKnowsWhatIsOverWhenTheNextBegins(t *testing.T) {
	began := make(chan struct{}, 1)
	w := newWatcher(began)
	write := func(s string) {
		n, err := w.Write([]byte(s))
		require.NoError(t, err)
		require.Equal(t, len(s), n)
	}
	write("[1] weir: begin prog a/ipv4\n[2] weir: end pr")
	require.Len(t, began, 1)
	write("og a/ipv4\n")
	require.False(t, w.over("prog a/ipv4"), "the kernel may still say something")
	write("[3] weir: begin prog b/ipv4\n")
	require.True(t, w.over("prog a/ipv4"))
	require.False(t, w.over("prog b/ipv4"))
	require.Len(t, began, 1, "tokens do not pile up")
}

func TestPlanAsksEveryKernelForProgFirst(t *testing.T) {
	var runs []scenarios.Result
	for i := range 25 {
		runs = append(runs, scenarios.Result{Scenario: fmt.Sprint("s", i), World: syntax.Prog})
	}
	for i := range 25 {
		runs = append(runs, scenarios.Result{Scenario: fmt.Sprint("s", i), World: syntax.Netns})
	}
	old, young := &vmtest.Kernel{ID: "5.10"}, &vmtest.Kernel{ID: "7.2"}
	var got []string
	for _, u := range plan([]*vmtest.Kernel{old, young}, 2, runs, func(w syntax.World) bool { return w == syntax.Prog }) {
		got = append(got, fmt.Sprint(u.kernel.ID, " ", u.world, " ", len(u.names), " ", u.costs, " ", u.cover))
	}
	require.Equal(t, []string{
		"5.10 prog 25 true true", "7.2 prog 25 true true",
		"5.10 netns 20 false false", "7.2 netns 20 false false", "5.10 netns 5 false false", "7.2 netns 5 false false",
	}, got)
}

func TestMoreKernelsThanPlacesHaveOneGuestForProgEach(t *testing.T) {
	var runs []scenarios.Result
	for i := range 1300 {
		runs = append(runs, scenarios.Result{Scenario: fmt.Sprint("s", i), World: syntax.Prog})
	}
	sizes := func(kernels int) (sizes []int) {
		for _, u := range plan(make([]*vmtest.Kernel, kernels), 2, runs, func(syntax.World) bool { return true }) {
			sizes = append(sizes, len(u.names))
		}
		return sizes
	}
	require.Equal(t, []int{1000, 300}, sizes(1))
	require.Equal(t, []int{1000, 1000, 300, 300}, sizes(2))
	require.Equal(t, []int{1300, 1300, 1300}, sizes(3))
}

func TestFirstGuestsAreGivenMuchAndLastOnesLittle(t *testing.T) {
	for _, test := range []struct {
		runs, least int
		sizes       []int
	}{
		{0, 20, nil},
		{1, 20, []int{1}},
		{20, 20, []int{20}},
		{61, 20, []int{21, 20, 20}},
		{450, 20, []int{150, 100, 67, 45, 30, 20, 20, 18}},
		{1275, 1000, []int{1000, 275}},
	} {
		var names, got []string
		for i := range test.runs {
			names = append(names, fmt.Sprint("s", i))
		}
		var sizes []int
		for _, part := range cut(names, test.least) {
			sizes = append(sizes, len(part))
			got = append(got, part...)
		}
		require.Equal(t, test.sizes, sizes)
		require.Equal(t, names, got, "each once, in their order")
	}
}

func TestAFailureTravelsWhole(t *testing.T) {
	in := message{
		Result:  &scenarios.Result{Scenario: "a/ipv6", Family: syntax.IPv6, World: syntax.Netns, Kernel: "5.10.0", Outcome: scenarios.Fail, Reason: "why", Seconds: 1.5},
		Failure: realFailure(t),
		Outputs: []scenarios.Output{{Hook: "from-container", Endpoint: "default/client", Action: "forward", Frame: []byte{1, 2}}},
	}
	data, err := json.Marshal(in)
	require.NoError(t, err)
	var out message
	require.NoError(t, json.Unmarshal(data, &out))
	got := out.result()
	require.Equal(t, in.Outputs, got.Outputs)
	require.Equal(t, in.Result.Reason, got.Reason)
	again, err := json.Marshal(out)
	require.NoError(t, err)
	require.Equal(t, string(data), string(again), "what travels twice stays the same")
	require.True(t, in.Failure.Time.Equal(got.Failure.Time))
	got.Failure.Time = in.Failure.Time
	for _, walks := range [][2]int{{len(in.Failure.Walks), len(got.Failure.Walks)}, {len(in.Failure.Tables), len(got.Failure.Tables)}} {
		require.Positive(t, walks[0])
		require.Equal(t, walks[0], walks[1])
	}
	require.Equal(t, in.Failure.Walks[0].Steps, got.Failure.Walks[0].Steps)
	require.Equal(t, in.Failure.Tables, got.Failure.Tables)
	require.Equal(t, in.Failure.Flows, got.Failure.Flows)
	require.Equal(t, in.Failure.Details, got.Failure.Details)
}

// realFailure is that of a scenario which expects what does not come.
func realFailure(t *testing.T) *scenarios.Failure {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs")
	}
	s, err := scenarios.Parse("x.txtar", []byte("# A test.\nworlds prog\nfamilies ipv4\ntopology two-pods\nsend client ip(dst=web) udp(sport=1000 dport=53)\nexpect web udp(dport=54)\n"))
	require.NoError(t, err)
	results, err := (&scenarios.Runner{Parallel: 1}).Run(t.Context(), []*scenarios.Scenario{s})
	require.NoError(t, err)
	require.NotNil(t, results[0].Failure)
	return results[0].Failure
}

func TestServeRunsAJob(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it loads BPF programs, and writes to the kernel's log")
	}
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		t.Skip("needs /dev/kmsg to write to, which this container has not")
	} else if err == nil {
		f.Close()
	}
	in, err := json.Marshal(job{World: syntax.Prog, Names: []string{"pod-to-pod/ipv4", "pod-to-pod/ipv6"}, Slowdown: 1, Costs: true})
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, Serve(t.Context(), syntax.Prog, false, bytes.NewReader(in), &out))
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	d := json.NewDecoder(&out)
	var told []message
	for d.More() {
		var m message
		require.NoError(t, d.Decode(&m))
		told = append(told, m)
	}
	require.Len(t, told, 4)
	require.NotEmpty(t, told[0].Costs)
	require.Equal(t, scenarios.Pass, told[1].Result.Outcome)
	require.NotEmpty(t, told[1].Outputs)
	require.True(t, told[3].Done)
	require.Error(t, Serve(t.Context(), syntax.Prog, true, strings.NewReader("no job"), &out))
}

func TestARoomLetsSeveralGuestsShareAPlace(t *testing.T) {
	t.Setenv(vmtest.CacheEnv, t.TempDir())
	r := newRoom()
	places := vmtest.Parallel(vmtest.DefaultMemory)
	for world, guests := range map[syntax.World]int{syntax.Netns: guestsPerPlace * places, syntax.Prog: places} {
		var leave []func()
		for range guests {
			l, err := r.enter(t.Context(), shares[world])
			require.NoError(t, err)
			leave = append(leave, l)
		}
		full, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := r.enter(full, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for _, l := range leave {
			l()
		}
		require.Empty(t, r.places, "every place is given back")
		require.Zero(t, r.free)
	}
}

func TestKernelsOfOneReleaseHaveNamesOfTheirOwn(t *testing.T) {
	m := &Matrix{Kernels: []*vmtest.Kernel{{ID: "6.12", Release: "6.12.1"}, {ID: "/src/linux/vmlinux", Release: "6.12.1"}, {ID: "7.2", Release: "7.2.0"}}}
	require.Equal(t, []string{"6.12.1#6.12", "6.12.1#vmlinux", "7.2.0"}, m.Names())
}
