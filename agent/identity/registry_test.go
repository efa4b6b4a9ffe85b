// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/weirnet/weir/model"
)

// api is an API server for identities: it does to objects what a real one does
// and the fake client does not.
type api struct {
	t      *testing.T
	client *dynamicfake.FakeDynamicClient

	mu       sync.Mutex
	versions int
	creates  int
	deletes  int
	fail     map[string]error // by verb
	lose     string           // a field that objects are kept without
}

func newAPI(t *testing.T) *api {
	a := &api{t: t, fail: map[string]error{}}
	a.client = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{Resource(): Kind + "List"})
	a.client.PrependReactor("*", Plural, a.react)
	a.client.PrependWatchReactor(Plural, func(ktesting.Action) (bool, watch.Interface, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.fail["watch"] != nil, nil, a.fail["watch"]
	})
	return a
}

func (a *api) react(action ktesting.Action) (bool, runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.fail[action.GetVerb()]; err != nil {
		return true, nil, err
	}
	switch action := action.(type) {
	case ktesting.CreateActionImpl:
		object := action.Object.(*unstructured.Unstructured)
		if _, err := a.client.Tracker().Get(Resource(), "", object.GetName()); err == nil {
			return false, nil, nil // it is there already
		}
		a.versions++
		a.creates++
		object.SetUID(types.UID(fmt.Sprintf("uid-%d", a.versions)))
		object.SetResourceVersion(strconv.Itoa(a.versions))
		object.SetCreationTimestamp(metav1.Now())
		unstructured.RemoveNestedField(object.Object, "spec", a.lose)
	case ktesting.DeleteActionImpl:
		there, err := a.client.Tracker().Get(Resource(), "", action.Name)
		if err != nil {
			return false, nil, nil
		}
		a.deletes++
		object, wanted := there.(*unstructured.Unstructured), action.DeleteOptions.Preconditions
		if *wanted.UID != object.GetUID() || *wanted.ResourceVersion != object.GetResourceVersion() {
			return true, nil, apierrors.NewConflict(Resource().GroupResource(), action.Name, errors.New("it is another"))
		}
	}
	return false, nil, nil
}

// fails has requests of these kinds fail; nil: no more.
func (a *api) fails(err error, verbs ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, verb := range verbs {
		a.fail[verb] = err
	}
}

// keys gives the labels of all objects by number.
func (a *api) keys() map[model.Identity]string {
	list, err := a.client.Tracker().List(Resource(), Resource().GroupVersion().WithKind(Kind), "")
	require.NoError(a.t, err)
	found := map[model.Identity]string{}
	for i := range list.(*unstructured.UnstructuredList).Items {
		number, set, err := fromObject(&list.(*unstructured.UnstructuredList).Items[i])
		require.NoError(a.t, err)
		found[number] = set.Key()
	}
	return found
}

// put has an object made by somebody else.
func (a *api) put(number model.Identity, set model.LabelSet) {
	object, err := toObject(number, &set)
	require.NoError(a.t, err)
	_, err = a.client.Resource(Resource()).Create(a.t.Context(), object, metav1.CreateOptions{})
	require.NoError(a.t, err)
	synctest.Wait()
}

func (a *api) delete(number model.Identity) {
	require.NoError(a.t, a.client.Tracker().Delete(Resource(), "", nameOf(number)))
	synctest.Wait()
}

// agent is one that uses a Registry as agents do.
type agent struct {
	*Registry
	t        *testing.T
	alloc    map[string]model.Identity // local numbers
	pods     map[string]wantedPod      // by key
	changed  chan struct{}
	changes  int // of numbers in force
	force    map[string]model.Identity
	mu       sync.Mutex
	reported error
	stop     func()
}

type wantedPod struct {
	set             model.LabelSet
	here, addressed bool
}

func (a *api) agent(node string) *agent {
	g := &agent{t: a.t, alloc: map[string]model.Identity{}, pods: map[string]wantedPod{}, changed: make(chan struct{}, 1), force: map[string]model.Identity{}}
	var err error
	g.Registry, err = New(Options{
		Node: node, Client: a.client,
		Changed: func() {
			select {
			case g.changed <- struct{}{}:
			default:
			}
		},
		Report: func(err error) {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.reported = err
		},
	})
	require.NoError(a.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); g.Run(ctx) }()
	g.stop = sync.OnceFunc(func() { cancel(); <-ended })
	a.t.Cleanup(g.stop)
	g.WaitForSync(ctx)
	if !g.isRefused() {
		time.Sleep(time.Second) // until it gives numbers, too
	}
	synctest.Wait()
	return g
}

// reconcile compiles, and goes on while numbers change.
func (g *agent) reconcile() {
	for {
		numbers := g.Numbers()
		force := map[string]model.Identity{}
		wanted := map[string]model.WantedIdentity{}
		for key, pod := range g.pods {
			w := model.WantedIdentity{Labels: pod.set, Here: pod.here}
			if pod.addressed {
				number, found := numbers[key]
				if !found {
					if g.alloc[key] == 0 {
						g.alloc[key] = model.FirstLocalIdentity + model.Identity(len(g.alloc))
					}
					number = g.alloc[key]
				}
				w.Number, force[key] = number, number
			}
			wanted[key] = w
		}
		if !maps.Equal(force, g.force) {
			g.changes++
			g.force = force
		}
		g.Use(wanted)
		synctest.Wait()
		select {
		case <-g.changed:
		default:
			return
		}
	}
}

// live lets time pass as an agent does: pods are looked at twice a minute.
func live(d time.Duration, agents ...*agent) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(20*time.Second, time.Until(end)))
		synctest.Wait()
		for _, g := range agents {
			g.reconcile()
		}
	}
}

func labels(app string) model.LabelSet {
	return model.LabelSet{
		Namespace: "default", NamespaceLabels: map[string]string{"kubernetes.io/metadata.name": "default"},
		PodLabels: map[string]string{"app": app}, Account: "default",
		Ports: []model.NamedPort{{Name: "http", Protocol: model.ProtocolTCP, Port: 8080}},
	}
}

func (g *agent) run(app string, here, addressed bool) string {
	set := labels(app)
	g.pods[set.Key()] = wantedPod{set, here, addressed}
	return set.Key()
}

func (g *agent) lastReport() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reported
}

func TestNodesAgreeOnANumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a, b := api.agent("a"), api.agent("b")
		key := a.run("web", true, true)
		b.run("web", false, true)
		a.reconcile()
		b.reconcile()
		require.True(t, a.force[key].IsShared(), a.force)
		require.Equal(t, a.force, b.force)
		require.Equal(t, map[model.Identity]string{a.force[key]: key}, api.keys())

		// An agent that starts anew has it from the beginning.
		a.stop()
		a = api.agent("a")
		a.run("web", true, true)
		a.reconcile()
		require.Equal(t, b.force, a.force)
		require.Equal(t, 1, a.changes)
		require.Equal(t, 1, api.creates)
	})
}

func TestANumberIsThereBeforeThePodIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a := api.agent("a")
		key := a.run("web", true, false)
		a.reconcile()
		a.run("web", true, true)
		a.reconcile()
		require.True(t, a.force[key].IsShared())
		require.Equal(t, 1, a.changes, "it never had another")
	})
}

func TestAgentsThatStartAtOnceMakeOneObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		agents := []*agent{api.agent("a"), api.agent("b"), api.agent("c")}
		var key string
		for _, g := range agents {
			key = g.run("web", true, true)
			g.Use(map[string]model.WantedIdentity{key: {Labels: labels("web"), Number: model.FirstLocalIdentity, Here: true}})
		}
		synctest.Wait()
		for _, g := range agents {
			g.reconcile()
			require.True(t, g.force[key].IsShared())
			require.Equal(t, agents[0].force, g.force)
		}
		require.Len(t, api.keys(), 1)
	})
}

func TestLabelsThatWantOneNumberGetTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a := api.agent("a")
		set := labels("web")
		number, free := newTable().choose(set.Key(), time.Now())
		require.True(t, free)
		// The agent is not told of it before it wants it.
		a.source.registry.mu.Lock()
		object, err := toObject(number, &model.LabelSet{Namespace: "other"})
		require.NoError(t, err)
		_, err = api.client.Resource(Resource()).Create(t.Context(), object, metav1.CreateOptions{})
		require.NoError(t, err)
		a.source.registry.mu.Unlock()
		key := a.run("web", true, true)
		a.reconcile()
		require.Equal(t, number+1, a.force[key])
		require.Len(t, api.keys(), 2)
	})
}

func TestOfTwoObjectsForOneSetTheOldestCounts(t *testing.T) {
	for name, pause := range map[string]time.Duration{"made at once, the lowest": 0, "made one after the other": time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t)
				if pause == 0 {
					api.put(3000, labels("web"))
					api.put(4000, labels("web"))
				} else {
					api.put(4000, labels("web"))
					time.Sleep(pause)
					api.put(3000, labels("web"))
				}
				a, b := api.agent("a"), api.agent("b")
				key := a.run("web", true, true)
				b.run("web", false, true)
				a.reconcile()
				b.reconcile()
				want := model.Identity(3000)
				if pause > 0 {
					want = 4000
				}
				require.Equal(t, want, a.force[key])
				require.Equal(t, want, b.force[key])
				live(2*DefaultUnused, a, b)
				require.Equal(t, map[model.Identity]string{want: key}, api.keys(), "the other one is collected")
				require.Equal(t, 1, a.changes)
				require.Equal(t, 1, b.changes)
			})
		})
	}
}

func TestNumbersThatNobodyHasGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a, b := api.agent("a"), api.agent("b")
		key := a.run("web", true, true)
		other := a.run("db", true, true)
		b.run("web", false, true)
		b.run("db", false, true)
		live(3*DefaultUnused, a, b)
		require.Len(t, api.keys(), 2, "those that are in use stay")
		for _, g := range []*agent{a, b} {
			delete(g.pods, key)
			g.reconcile()
		}
		live(DefaultUnused-time.Minute, a, b)
		require.Len(t, api.keys(), 2)
		live(DefaultUnused/2, a, b)
		require.Equal(t, map[model.Identity]string{a.force[other]: other}, api.keys())
		require.Equal(t, 1, api.deletes, "one agent asked")
	})
}

func TestAnAgentThatStartsWaitsBeforeItJudges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		api.put(3000, labels("old"))
		time.Sleep(24 * time.Hour)
		a := api.agent("a")
		time.Sleep(24 * time.Hour)
		require.Len(t, api.keys(), 1, "an agent that does not know pods deletes nothing")
		a.run("old", false, true)
		live(3*DefaultUnused, a)
		require.Len(t, api.keys(), 1)
		clear(a.pods)
		live(2*DefaultUnused, a)
		require.Empty(t, api.keys())
	})
}

func TestANumberThatIsTakenAwayIsMadeAnewAndStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a, b := api.agent("a"), api.agent("b")
		api.put(3000, labels("web")) // not the one that the labels say
		key := a.run("web", true, true)
		b.run("web", false, true)
		a.reconcile()
		b.reconcile()
		api.delete(3000)
		a.reconcile()
		b.reconcile()
		require.Equal(t, map[model.Identity]string{3000: key}, api.keys())
		for _, g := range []*agent{a, b} {
			require.Equal(t, map[string]model.Identity{key: 3000}, g.force)
			require.Equal(t, 1, g.changes, "no flow is judged again")
		}
	})
}

func TestANumberThatWentAndIsOthersNowIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a := api.agent("a")
		api.put(3000, labels("web"))
		key := a.run("web", true, true)
		a.reconcile()
		api.fails(errGone, "create")
		api.delete(3000)
		a.reconcile()
		require.Equal(t, model.Identity(3000), a.force[key], "the API does not take it back yet")
		api.fails(nil, "create")
		api.put(3000, labels("db"))
		other := a.run("db", false, true)
		a.reconcile()
		live(time.Minute, a)
		require.Equal(t, model.Identity(3000), a.force[other])
		require.True(t, a.force[key].IsShared())
		require.NotEqual(t, a.force[other], a.force[key])
	})
}

// errGone is how a client hears of an API server that is not there.
var errGone = fmt.Errorf("dial tcp 192.0.2.1:6443: connect: %w", syscall.ECONNREFUSED)

func TestAnAPIThatIsAwayChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a := api.agent("a")
		key := a.run("web", true, true)
		a.reconcile()
		number := a.force[key]
		everything := []string{"create", "get", "list", "watch", "delete"}
		api.fails(errGone, everything...)

		fresh := a.run("new", true, true)
		a.reconcile()
		require.Equal(t, number, a.force[key])
		require.False(t, a.force[fresh].IsShared(), "it is numbered here alone")
		changes := a.changes
		require.NoError(t, a.lastReport(), "an API server that restarts is no problem")
		live(time.Hour, a)
		require.Equal(t, changes, a.changes)
		require.ErrorIs(t, a.lastReport(), ErrSilent)
		shared, local := a.Count()
		require.Equal(t, []int{1, 1}, []int{shared, local})

		api.fails(nil, everything...)
		live(time.Minute, a)
		require.NoError(t, a.lastReport())
		require.Equal(t, number, a.force[key])
		require.True(t, a.force[fresh].IsShared())
		require.Equal(t, changes+1, a.changes)
	})
}

func TestNothingIsCollectedRightAfterTheAPIWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		api.put(3000, labels("web"))
		a := api.agent("a")
		live(DefaultUnused-time.Minute, a) // nobody has it so far
		api.fails(errGone, "create", "get", "list", "watch", "delete")
		a.source.disturb() // the watch broke
		live(time.Hour, a)
		api.fails(nil, "create", "get", "list", "watch", "delete")
		a.source.disturb()
		live(settling/2, a)
		require.Len(t, api.keys(), 1)
		a.run("web", false, true) // pods are read anew
		live(time.Hour, a)
		require.Len(t, api.keys(), 1)
		require.Zero(t, api.deletes)
	})
}

func TestAClusterWithoutTheKindWorksWithLocalNumbers(t *testing.T) {
	for name, c := range map[string]struct{ told, want error }{
		"no kind":       {apierrors.NewNotFound(Resource().GroupResource(), ""), ErrNoKind},
		"no permission": {apierrors.NewForbidden(Resource().GroupResource(), "", errors.New("no")), ErrForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t)
				api.fails(c.told, "create", "get", "list", "watch", "delete")
				began := time.Now()
				a := api.agent("a")
				require.Less(t, time.Since(began), time.Second, "pods are not kept waiting")
				key := a.run("web", true, true)
				live(time.Hour, a)
				require.False(t, a.force[key].IsShared())
				require.Equal(t, 1, a.changes)
				require.ErrorIs(t, a.lastReport(), c.want)
				sentences := a.lastReport().Error()
				require.NotContains(t, sentences, "\n")

				api.fails(nil, "create", "get", "list", "watch", "delete")
				live(2*time.Minute, a)
				require.True(t, a.force[key].IsShared(), "as soon as the kind is there")
				require.NoError(t, a.lastReport())
			})
		})
	}
}

func TestAKindThatKeepsLessIsNotFilledWithObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		api.lose = "ports"
		a := api.agent("a")
		key := a.run("web", true, true)
		a.reconcile()
		require.Equal(t, 1, api.creates)
		live(time.Minute, a)
		require.False(t, a.force[key].IsShared())
		require.ErrorIs(t, a.lastReport(), ErrChanged)
		require.LessOrEqual(t, api.creates, 10)
	})
}

func TestManyLabelsChangeTheDatapathSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		a := api.agent("a")
		const many = 90 // the fake API tells of a hundred changes at once
		for i := range many {
			a.run(fmt.Sprintf("app-%d", i), true, true)
		}
		a.reconcile()
		for key, number := range a.force {
			require.True(t, number.IsShared(), key)
		}
		require.Len(t, api.keys(), many)
		require.Equal(t, 2, a.changes, "local numbers, and shared ones all at once")
		numbers := slices.Sorted(maps.Values(a.force))
		require.Len(t, slices.Compact(numbers), many)
	})
}

func TestObjectsThatAreNotUnderstoodAreNobodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t)
		set := labels("web")
		number, _ := newTable().choose(set.Key(), time.Now())
		for name, fields := range map[string]map[string]any{
			"web": {"namespace": "default"}, "255": {"namespace": "default"}, "65536": {"namespace": "default"}, "0300": {"namespace": "default"},
			nameOf(number): {"namespace": "default", "tenant": "who?"},
		} {
			object := &unstructured.Unstructured{Object: map[string]any{"spec": fields}}
			object.SetGroupVersionKind(Resource().GroupVersion().WithKind(Kind))
			object.SetName(name)
			_, err := api.client.Resource(Resource()).Create(t.Context(), object, metav1.CreateOptions{})
			require.NoError(t, err)
		}
		a := api.agent("a")
		key := a.run("web", true, true)
		a.reconcile()
		require.Equal(t, map[string]model.Identity{key: number + 1}, a.Numbers(), "a number stays taken, whatever it is for")
	})
}

func TestObjectsSayTheirLabelsWhole(t *testing.T) {
	for name, set := range map[string]model.LabelSet{
		"a namespace alone": {Namespace: "default"},
		"everything": {
			Namespace: "a", NamespaceLabels: map[string]string{"n": "", "o": "x"}, PodLabels: map[string]string{"p/q": "1"}, Account: "web",
			Ports: []model.NamedPort{{Name: "dns", Protocol: model.ProtocolUDP, Port: 53}, {Name: "dns", Protocol: model.ProtocolTCP, Port: 53}, {Name: "s", Protocol: model.ProtocolSCTP, Port: 65535}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			object, err := toObject(4711, &set)
			require.NoError(t, err)
			number, read, err := fromObject(object)
			require.NoError(t, err)
			require.Equal(t, model.Identity(4711), number)
			require.Equal(t, set.Key(), read.Key())
		})
	}
}

func TestATimeThatIsTooShortIsRefused(t *testing.T) {
	_, err := New(Options{Client: newAPI(t).client, Unused: time.Millisecond})
	require.ErrorContains(t, err, "make it a second at least")
}
