// SPDX-License-Identifier: Apache-2.0

package install

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/model"
)

// agentPod is of a node, of the template of that number.
func agentPod(node, template string, change func(*corev1.PodStatus)) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "weir-" + node, Labels: map[string]string{labelTemplate: template}}, Spec: corev1.PodSpec{NodeName: node}}
	p.Status.Phase = corev1.PodPending
	change(&p.Status)
	return p
}

func podIsReady(s *corev1.PodStatus) {
	s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
}

func waits(name, reason, message string) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		s.ContainerStatuses = []corev1.ContainerStatus{{
			Name: name, Image: "weir:dev", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
		}}
	}
}

func runs(s *corev1.PodStatus) {
	s.ContainerStatuses = []corev1.ContainerStatus{{Name: "agent", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
}

// ended is of a container that ended before, with last words.
func ended(now func(*corev1.PodStatus), message string) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		now(s)
		s.ContainerStatuses[0].RestartCount = 3
		s.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled", Message: message}
	}
}

func TestPhaseOfANode(t *testing.T) {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2, Annotations: map[string]string{appsv1.DeprecatedTemplateGeneration: "2"}}}
	set.Status.ObservedGeneration = 2
	up, down := node("a", true), node("a", false)
	tests := map[string]struct {
		node  corev1.Node
		pods  []corev1.Pod
		want  string
		ready bool
	}{
		"ready":                         {up, []corev1.Pod{agentPod("a", "2", podIsReady)}, "ready", true},
		"no pod":                        {up, []corev1.Pod{agentPod("b", "2", podIsReady)}, "no agent yet", false},
		"kubelet does not know yet":     {down, []corev1.Pod{agentPod("a", "2", podIsReady)}, "the agent is ready, the node not yet", false},
		"an agent of before":            {up, []corev1.Pod{agentPod("a", "1", podIsReady)}, "has the agent of before, and waits for its turn", false},
		"no image":                      {down, []corev1.Pod{agentPod("a", "2", waits("agent", "ErrImageNeverPull", "not present"))}, "agent waits: ErrImageNeverPull: not present: load the image weir:dev on the nodes (weir image -o weir.tar), or name one in a registry by --image", false},
		"crashes":                       {down, []corev1.Pod{agentPod("a", "2", waits("agent", "CrashLoopBackOff", "back-off 10s"))}, "agent waits: CrashLoopBackOff: back-off 10s", false},
		"crashes with a word":           {down, []corev1.Pod{agentPod("a", "2", ended(waits("agent", "CrashLoopBackOff", "back-off 10s"), "starting\nweir: open the datapath: the kernel is too old\n"))}, "agent ended 3 times, and is started anew: weir: open the datapath: the kernel is too old", false},
		"is killed":                     {down, []corev1.Pod{agentPod("a", "2", ended(waits("agent", "CrashLoopBackOff", "back-off 10s"), ""))}, "agent ended 3 times, and is started anew: exit status 137 (OOMKilled)", false},
		"crashed before":                {down, []corev1.Pod{agentPod("a", "2", ended(runs, "weir: no"))}, "agent runs, and is not ready yet; before it ended: weir: no", false},
		"waits for its init containers": {down, []corev1.Pod{agentPod("a", "2", waits("agent", "PodInitializing", ""))}, "the agent's pod is pending", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			states := statesOf([]corev1.Node{test.node}, test.pods, set)
			require.Len(t, states, 1)
			require.Equal(t, test.want, states[0].phase)
			require.Equal(t, test.ready, states[0].ready)
		})
	}
}

func TestWhoWaitsInVainIsToldWhatWasSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose second is over when nothing is left to do
		set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: Name}}
		n := node("a", false)
		pod := agentPod("a", "", waits("agent", "ErrImagePull", "no such image"))
		pod.Namespace = Namespace
		for k, v := range labelsOf(componentAgent) {
			pod.Labels[k] = v
		}
		kube := fake.NewClientset(set, &n, &pod)
		// A server that is away when time is up.
		asked := 0
		kube.PrependReactor("get", "daemonsets", func(ktesting.Action) (bool, runtime.Object, error) {
			asked++
			if asked > 1 {
				return true, nil, errors.New("the server is away")
			}
			return false, nil, nil
		})
		c := &Cluster{kube: kube, tell: func(string) {}}
		err := c.WaitReady(t.Context(), time.Second)
		require.ErrorContains(t, err, "1 of 1 nodes are not ready after 1s")
		require.ErrorContains(t, err, "node a: agent waits: ErrImagePull: no such image")
	})
}

func TestOtherSystemsNodesNeedNoAgent(t *testing.T) {
	windows := node("w", true)
	windows.Labels = map[string]string{corev1.LabelOSStable: "windows"}
	require.Empty(t, statesOf([]corev1.Node{windows}, nil, &appsv1.DaemonSet{}))
}

func TestProblemsOfAnAgent(t *testing.T) {
	s := &LocalStatus{Status: api.Status{
		NotReady: "the datapath is not applied yet: wait",
		Refused:  []api.Refused{{Object: model.Ref{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Field: "spec.ingress[0]", Problem: "is too much: split it"}},
	}, Conflists: []string{"/etc/cni/net.d/00-other.conf"}}
	require.Equal(t, []string{
		"the datapath is not applied yet: wait",
		"left out: NetworkPolicy default/web: spec.ingress[0]: is too much: split it",
		"kubelet takes /etc/cni/net.d/00-other.conf before Weir's configuration: remove it from the node",
	}, agentProblems(s))
	require.Empty(t, agentProblems(&LocalStatus{Status: api.Status{Ready: true}}))
	fields := &LocalStatus{Status: api.Status{
		Ready:   true,
		Refused: []api.Refused{{Object: model.Ref{Kind: "Service", Namespace: "aaa", Name: "evil"}, Field: "spec.externalIPs[0]", Problem: "is another's", FieldOnly: true}},
		Ignored: []api.Refused{{Object: model.Ref{Kind: "Service", Namespace: "aaa", Name: "odd"}, Problem: "says nothing", FieldOnly: true, Ignored: true}},
	}}
	require.Empty(t, agentProblems(fields), "no tenant has a node unhealthy so")
	require.Equal(t, []string{"claim lost: Service aaa/evil: spec.externalIPs[0]: is another's", "ignored: Service aaa/odd: says nothing"}, agentNotes(fields))
	budgets := &LocalStatus{Status: api.Status{Ready: true, Refused: []api.Refused{{Object: model.Ref{Kind: "Service", Namespace: "aaa", Name: "large"}, Field: "spec.ports", Problem: "has no room", Table: "slot_rows"}}}}
	require.Empty(t, agentProblems(budgets), "nor by asking for too much: the node works")
	require.Equal(t, []string{"over budget: Service aaa/large: spec.ports: has no room"}, agentNotes(budgets))
	budgets.Refused[0].Object = model.Ref{Kind: "ClusterNetworkPolicy", Name: "guard"}
	require.Equal(t, []string{"left out: ClusterNetworkPolicy guard: spec.ports: has no room"}, agentProblems(budgets), "the operator has to know")
	require.Empty(t, agentNotes(budgets))
	tables := &LocalStatus{Status: api.Status{Ready: true, Tables: []api.Table{{Name: "rules", Entries: 80, Room: 100}, {Name: "slot_rows", Entries: 79, Room: 100}}}}
	require.Empty(t, agentProblems(tables))
	drifted := &LocalStatus{}
	drifted.Repair.Tables = []api.RepairedTable{{Table: "rules", Missing: 1, Wrong: 2, Keys: []string{"missing rule of set 7"}}}
	require.Equal(t, []string{"repaired: table rules had 1 entries missing, 0 surplus and 2 wrong: missing rule of set 7"}, agentNotes(drifted))
	require.Equal(t, []string{"nearly full: table rules has 80 of 100 entries: ask who needs them, or raise tables.rules of the configuration"}, agentNotes(tables))
}

func TestConfigurationThatIsTakenBeforeWeirsIsFound(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"00-other.conf", "01-notes.txt", "04-more.conflist", conflist, "10-later.conflist"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
	}
	before, err := conflistsBefore(dir)
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "00-other.conf"), filepath.Join(dir, "04-more.conflist")}, before)
	before, err = conflistsBefore(filepath.Join(dir, "nothing"))
	require.NoError(t, err)
	require.Empty(t, before)
}

func TestTheAgentIsAskedOnItsSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	_, err := AskLocal(t.Context(), socket, t.TempDir())
	require.Error(t, err)

	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.PathStatus {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"node":"a","ready":true,"services":3}`))
	})}
	go server.Serve(listener)
	defer server.Close()
	status, err := AskLocal(t.Context(), socket, t.TempDir())
	require.NoError(t, err)
	require.Equal(t, 3, status.Services)
	require.True(t, status.NodeStatus().Healthy)
}

func TestACommandThatFindsNoNodeIsNotHealthy(t *testing.T) {
	require.False(t, Healthy(nil))
	require.True(t, Healthy([]NodeStatus{{Healthy: true}}))
	require.False(t, Healthy([]NodeStatus{{Healthy: true}, {}}))
}
