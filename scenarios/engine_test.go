// SPDX-License-Identifier: Apache-2.0

package scenarios

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/lab/prog"
	"github.com/weirnet/weir/model"
	"github.com/weirnet/weir/model/oracle"
	"github.com/weirnet/weir/scenarios/syntax"
)

func parse(t testing.TB, steps string) *Scenario {
	s, err := Parse("test.txtar", []byte("# A test.\nworlds prog\nfamilies ipv4\ntopology two-pods\n"+steps))
	require.NoError(t, err)
	return s
}

// runOne runs steps in world prog.
func runOne(t testing.TB, steps string) Result {
	requireRoot(t)
	results, err := (&Runner{Parallel: 1}).Run(context.Background(), []*Scenario{parse(t, steps)})
	require.NoError(t, err)
	require.Len(t, results, 1)
	return results[0]
}

const refuseAll = `
-- deny.yaml --
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: deny
spec:
  podSelector: {}
`

func TestAScenarioThatDoesNotHoldFailsWithWhatWasExpected(t *testing.T) {
	tests := map[string]struct {
		steps  string
		line   int
		detail Detail
	}{
		"an answer that does not come": {"connect client -> tcp/web:80\n", 5, Detail{"outcome", "an answer", ""}},
		"a refusal that is none": {"listen web tcp/80\nconnect client -> tcp/web:80 fails refused\n", 6,
			Detail{"outcome", "refused", "an answer"}},
		"a timeout in place of a refusal": {"apply deny.yaml\nconnect client -> tcp/web:80 fails refused\n" + refuseAll, 6,
			Detail{"outcome", "refused", ""}},
		"another answer": {"listen web udp/53 answers \"no\"\nconnect client -> udp/web:53 hears \"yes\"\n", 6,
			Detail{"answer", `"yes"`, `"no"`}},
		"another server": {"listen web tcp/80\nconnect client -> tcp/web:80 via internet\n", 6, Detail{"server", "internet", "web"}},
		"another client": {"listen web tcp/80\nconnect client -> tcp/web:80 seen-from node\n", 6,
			Detail{"client as the server sees it", "198.18.0.2 (node)", "10.0.0.10 (client)"}},
		"a field of a frame": {"send client ip(dst=web ttl=9) udp(sport=1 dport=2)\nexpect web ip(ttl=9)\n", 6, Detail{"ipv4.ttl", "9", "8"}},
		"a frame that does not come": {"send client ip(dst=internet) udp(sport=1 dport=2)\nexpect web udp(dport=2)\n", 6,
			Detail{"frame", "udp(dport=2)", "none"}},
		"a frame that must not come": {"send client ip(dst=web) udp(sport=1 dport=2)\nexpect web nothing\n", 6, Detail{"frame", "nothing", ""}},
		"a verdict":                  {"send client ip(dst=web) udp(sport=1 dport=2)\nverdict forward out=host flow=new\n", 6, Detail{"out", "host", "local"}},
		"a drop that did not happen": {"send client ip(dst=web) udp(sport=1 dport=2)\ndropped spoofed-source\n", 6,
			Detail{"packets", "at least 1", "0"}},
		"a flow that is not there": {"flow client -> tcp/web:80\n", 5, Detail{"flow", "an entry", "none"}},
		"a flow that is there":     {"send client ip(dst=web) udp(sport=1 dport=2)\nno-flow client -> udp/web:2\n", 6, Detail{"flow", "none", ""}},
		"a counter":                {"counter forwarded from-container 7\n", 5, Detail{"forwarded from-container", "7", "0"}},
		"a table":                  {"table services has \"nothing\"\n", 5, Detail{"entry", "one with nothing", ""}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := runOne(t, test.steps)
			require.Equal(t, Fail, r.Outcome, r.Reason)
			require.Equal(t, test.line, r.Failure.Pos.Line)
			require.Contains(t, r.Failure.Odd, "the scenario")
			require.Equal(t, "weir scenario run --world prog --run '^test/ipv4$' test.txtar", r.Failure.Repeat)
			found := false
			for _, d := range r.Failure.Details {
				found = found || d.Field == test.detail.Field && d.Want == test.detail.Want && (test.detail.Got == "" || d.Got == test.detail.Got)
			}
			require.True(t, found, "%+v", r.Failure.Details)
		})
	}
}

func TestMistakesThatOnlyARehearsalShowsAreFoundWithoutRunning(t *testing.T) {
	tests := map[string]struct{ steps, line, want string }{
		"objects that do not compile": {"apply web.yaml\n" + `
-- web.yaml --
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  selector:
    app: web
  ports:
  - port: 80
    targetPort: 8080
    protocol: SCTP
`, "x.txtar:4:", "targetPort"},
		"an object deleted before it is there": {"delete networkpolicy/deny\napply deny.yaml\n" + refuseAll, "x.txtar:4:", "no networkpolicy/default/deny to delete"},
		"an update of what is not there":       {"update deny.yaml\n" + refuseAll, "x.txtar:4:", "not there yet"},
		"a frame without a destination":        {"send client ip() udp(dport=53)\n", "x.txtar:4:", "no address: dst"},
		"an address of the other family":       {"send client ip(dst=10.0.0.1) udp(dport=53)\n", "x.txtar:4:", "of the other family"},
		"ARP for an IPv6 address":              {"send client arp(tpa=fd00::1)\n", "x.txtar:4:", "is not an IPv4 address"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("x.txtar", []byte("# A test.\nworlds prog\ntopology two-pods\n"+test.steps))
			require.ErrorContains(t, err, test.line)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestAFrameThatIsNotDeliverableIsNoPass(t *testing.T) {
	for _, steps := range []string{
		"send client ip(dst=web) udp(dport=53) payload(size=9000)\n",
		"send client ip(dst=web) udp(dport=53) truncate(30)\n",
		"send client raw(0000)\n",
	} {
		r := runOne(t, steps)
		require.Equal(t, Fail, r.Outcome, r.Reason)
		require.Contains(t, r.Failure.Problem, "the kernel gives no program such a frame")
	}
}

func FuzzParse(f *testing.F) {
	library, err := Library()
	require.NoError(f, err)
	for _, s := range library {
		f.Add([]byte(s.Source))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("fuzz.txtar", data)
		if (s == nil) == (err == nil) {
			t.Fatalf("scenario %v and error %v", s, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "fuzz.txtar:") {
			t.Fatalf("an error without a place: %v", err)
		}
	})
}

func TestAFrameOfAnEarlierExchangeIsNoNews(t *testing.T) {
	r := runOne(t, "listen web tcp/80\nconnect client -> tcp/web:80\nsend client ip(dst=internet) udp(sport=1 dport=2)\nexpect web tcp(dport=80)\n")
	require.Equal(t, Fail, r.Outcome)
	require.Equal(t, 8, r.Failure.Pos.Line)
}

// disagree runs a scenario against a model that has been told other objects
// than the datapath.
func disagree(t *testing.T, steps string) *Failure {
	requireRoot(t)
	s := parse(t, steps)
	var failure *Failure
	pool, err := newProgPool(1, datapath.Options{}).get()
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Use(context.Background(), s.topology, func(w *prog.World) {
		p := newPlay(s, syntax.IPv4, syntax.Prog, w)
		misled := oracle.NewOracle(syntax.FirstNode, p.locals[0])
		deny, err := Parse("deny.txtar", []byte("worlds prog\ntopology two-pods\napply deny.yaml\n"+refuseAll))
		require.NoError(t, err)
		objs := s.objects.Clone()
		objs.Merge(deny.attached["deny.yaml"])
		misled.SetObjects(objs)
		require.NoError(t, p.compile(context.Background()))
		p.judge.benches[0].oracle = misled
		for i := range p.Steps {
			if failure, _ = p.step(context.Background(), &p.Steps[i]); failure != nil {
				return
			}
		}
		failure = p.settle()
	}))
	return failure
}

func TestTheOddOneOutIsNamed(t *testing.T) {
	t.Run("the scenario and the datapath agree against the model", func(t *testing.T) {
		f := disagree(t, "send client ip(dst=web) udp(sport=1 dport=2)\nexpect web udp(dport=2)\n")
		require.NotNil(t, f)
		require.Contains(t, f.Odd, "the model")
		require.Equal(t, 5, f.Pos.Line)
	})
	t.Run("the scenario and the model agree against the datapath", func(t *testing.T) {
		f := disagree(t, "send client ip(dst=web) udp(sport=1 dport=2)\nverdict drop reason=policy-ingress\n")
		require.NotNil(t, f)
		require.Contains(t, f.Odd, "the datapath")
		require.Equal(t, 6, f.Pos.Line)
	})
}

func TestTheJudgeComparesEveryPartOfADecision(t *testing.T) {
	s := parse(t, "ping client -> web\n")
	devices := map[string]model.Device{"default/client": {Ifindex: 1}, "default/web": {Ifindex: 2}}
	mac := frame.MAC([]byte{2, 0, 0, 0, 0, 1})
	build := func(ttl uint8, dport uint16) []byte {
		data, err := frame.Build(frame.Layer{Kind: "eth"}.With("src", mac).With("dst", mac),
			frame.Layer{Kind: "ipv4"}.With("src", frame.Addr(s.hosts["client"].Addresses[0])).
				With("dst", frame.Addr(s.hosts["web"].Addresses[0])).With("ttl", frame.Num(ttl)),
			frame.Layer{Kind: "udp"}.With("sport", frame.Num(1)).With("dport", frame.Num(dport)))
		require.NoError(t, err)
		return data
	}
	right := datapath.Decision{Action: model.Forward, Out: model.OutLocal, Ifindex: 2}
	tests := map[string]struct {
		decision datapath.Decision
		out      []byte
		agree    bool
	}{
		"as the model expects":       {right, build(63, 2), true},
		"a drop":                     {datapath.Decision{Action: model.Drop, Reason: model.ReasonPolicyEgress}, nil, false},
		"another way out":            {datapath.Decision{Action: model.Forward, Out: model.OutHost}, build(63, 2), false},
		"another pod":                {datapath.Decision{Action: model.Forward, Out: model.OutLocal, Ifindex: 1}, build(63, 2), false},
		"another port":               {right, build(63, 3), false},
		"a hop limit left as it was": {right, build(64, 2), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			j := newJudge(s.topology, []model.Local{{Devices: model.DevicesOf(devices), Gateways: s.topology.Gateways}}, time.Now)
			j.benches[0].oracle.SetObjects(s.objects)
			j.step(lab.Step{Hook: model.FromContainer, Endpoint: "default/client", Decision: test.decision, In: build(64, 2), Out: test.out}, time.Now())
			require.Equal(t, test.agree, len(j.disagreed) == 0, "%v", j.disagreed)
		})
	}
}

func TestNothingRunIsAFailure(t *testing.T) {
	_, err := (&Runner{Worlds: []syntax.World{syntax.Netns}}).Run(context.Background(), []*Scenario{parse(t, "ping client -> web\n")})
	require.ErrorIs(t, err, ErrNothingRun)
}

func TestASkipIsDeclaredOnLockedKernels(t *testing.T) {
	s := parse(t, "ping client -> web\n")
	s.Needs = []syntax.Need{{Kernel: "99.1"}}
	one := run{scenario: s, family: syntax.IPv4, world: syntax.Netns}
	r := (&machine{Runner: &Runner{}, kernel: "6.19.3"}).newWorker().one(context.Background(), one)
	require.Equal(t, Skipped, r.Outcome)
	require.Equal(t, "needs kernel 99.1", r.Reason)
	r = (&machine{Runner: &Runner{}, kernel: "6.18.44-x"}).newWorker().one(context.Background(), one)
	require.Equal(t, Fail, r.Outcome)
	require.Contains(t, r.Reason, "scenarios/skips does not declare")
}

func TestReleasesAreCompared(t *testing.T) {
	require.True(t, older("5.10.0-30-amd64", "6.6"))
	require.True(t, older("6.1.2", "6.12"))
	require.False(t, older("6.18.44-fc", "6.18"))
	require.False(t, older("7.2-rc1", "6.18"))
}

func TestALeakIsCounted(t *testing.T) {
	before := takeCensus()
	stop := make(chan struct{})
	for range 100 { // more than may still be ending of tests before
		go func() { <-stop }()
	}
	require.Contains(t, strings.Join(before.left(0), "\n"), "goroutines: "+strconv.Itoa(before["goroutines"])+" before, ")
	close(stop)
	require.Empty(t, before.left(time.Minute))
}

func TestARunThatIsStoppedSaysSo(t *testing.T) {
	requireRoot(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := (&Runner{}).Run(ctx, []*Scenario{parse(t, "ping client -> web\n")})
	require.ErrorIs(t, err, context.Canceled)
}
