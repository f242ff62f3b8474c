// Drives a cluster with client-go, whose typed clients speak protobuf: `client-go KUBECONFIG CONTEXT IMAGE
// OBJECTS`. Prints what it has seen to hold, and ends with 1 at the first thing that does not.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

const (
	protobuf  = runtime.ContentTypeProtobuf
	namespace = "go-client"
)

func main() {
	rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: os.Args[1]}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: os.Args[2]}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides).ClientConfig()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	config.ContentConfig, config.QPS = rest.ContentConfig{ContentType: protobuf, AcceptContentTypes: protobuf}, -1
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	client := kubernetes.NewForConfigOrDie(config)
	for _, step := range []struct {
		name string
		run  func(context.Context, *rest.Config, kubernetes.Interface) error
	}{
		{"objects live and die", live},
		{"informers see every change", inform},
		{"metadata alone", metadataOnly},
		{"both encodings say the same", compare},
		{"objects are made of either encoding", create},
		{"a lease is held by one", elect},
	} {
		if err := step.run(ctx, config, client); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", step.name, err)
			os.Exit(1)
		}
		fmt.Println("ok:", step.name)
	}
}

// A Deployment with as many of Go's peculiarities as fit into one: inlined messages, pointers to zero, numbers or text.
func deployment() *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")}}, PeriodSeconds: 7}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(0)),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(0)), MaxUnavailable: ptr.To(intstr.FromString("50%"))}},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				TerminationGracePeriodSeconds: ptr.To(int64(0)),
				Volumes: []corev1.Volume{
					{Name: "a", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
					{Name: "b", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "b"}, Optional: ptr.To(true)}}},
				},
				Containers: []corev1.Container{{
					Name: "web", Image: "busybox", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}, ReadinessProbe: probe,
					EnvFrom:         []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}},
					SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(false), RunAsUser: ptr.To(int64(0))},
				}},
			}},
		},
	}
}

func live(ctx context.Context, _ *rest.Config, client kubernetes.Interface) error {
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	deployments := client.AppsV1().Deployments(namespace)
	wanted := deployment()
	made, err := deployments.Create(ctx, wanted, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	strategy, spec := made.Spec.Strategy.RollingUpdate, made.Spec.Template.Spec
	if *made.Spec.Replicas != 0 || strategy.MaxSurge.IntVal != 0 || strategy.MaxUnavailable.StrVal != "50%" || *spec.TerminationGracePeriodSeconds != 0 {
		return fmt.Errorf("what was sent is not what was made: %+v", made.Spec)
	}
	if spec.Volumes[1].ConfigMap.Name != "b" || spec.Volumes[0].EmptyDir == nil || *spec.Volumes[1].ConfigMap.DefaultMode != 0644 {
		return fmt.Errorf("volumes are %+v", spec.Volumes)
	}
	container := spec.Containers[0]
	if container.EnvFrom[0].SecretRef.Name != "s" || container.ReadinessProbe.HTTPGet.Port.StrVal != "http" || *container.SecurityContext.RunAsUser != 0 {
		return fmt.Errorf("the container is %+v", container)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if made, err = deployments.Get(ctx, "web", metav1.GetOptions{}); err == nil {
			made.Spec.MinReadySeconds = 3
			made, err = deployments.Update(ctx, made, metav1.UpdateOptions{})
		}
		return err
	})
	if err != nil || made.Spec.MinReadySeconds != 3 {
		return fmt.Errorf("update: %w, %v", err, made.Spec)
	}
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 0 || scale.Status.Selector != "app=web" {
		return fmt.Errorf("scale: %w, %+v", err, scale)
	}
	patch := []byte(`{"metadata":{"annotations":{"a":"b"}}}`)
	if made, err = deployments.Patch(ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil || made.Annotations["a"] != "b" {
		return fmt.Errorf("patch: %w", err)
	}
	if _, err = deployments.Create(ctx, wanted, metav1.CreateOptions{}); !errors.IsAlreadyExists(err) {
		return fmt.Errorf("a second one: %v", err)
	}
	wanted.Name = "Not A Name"
	if _, err = deployments.Create(ctx, wanted, metav1.CreateOptions{}); !errors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.name") {
		return fmt.Errorf("a bad name: %v", err)
	}
	if err = deployments.Delete(ctx, "web", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}); err != nil {
		return err
	}
	if _, err = deployments.Get(ctx, "nobody", metav1.GetOptions{}); !errors.IsNotFound(err) {
		return fmt.Errorf("nobody: %v", err)
	}
	return nil
}

func inform(ctx context.Context, _ *rest.Config, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	seen := make(chan string, 100)
	say := func(what string) func(any) {
		return func(object any) { seen <- what + " " + object.(*corev1.ConfigMap).Data["n"] }
	}
	factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.FilteringResourceEventHandler{
		FilterFunc: func(object any) bool { return object.(*corev1.ConfigMap).Name == "seen" },
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: say("added"), DeleteFunc: say("deleted"), UpdateFunc: func(_, object any) { say("updated")(object) },
		},
	})
	stop := make(chan struct{})
	defer close(stop)
	factory.Start(stop)
	for kind, isSynced := range factory.WaitForCacheSync(ctx.Done()) {
		if !isSynced {
			return fmt.Errorf("%v does not sync", kind)
		}
	}
	maps := client.CoreV1().ConfigMaps(namespace)
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seen"}, Data: map[string]string{"n": "1"}, BinaryData: map[string][]byte{"b": {0, 255}}}
	made, err := maps.Create(ctx, object, metav1.CreateOptions{})
	if err != nil || !reflect.DeepEqual(made.BinaryData, object.BinaryData) {
		return fmt.Errorf("create: %w", err)
	}
	made.Data["n"] = "2"
	if _, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err = maps.Delete(ctx, "seen", metav1.DeleteOptions{}); err != nil {
		return err
	}
	for _, expected := range []string{"added 1", "updated 2", "deleted 2"} {
		select {
		case found := <-seen:
			if found != expected {
				return fmt.Errorf("%q instead of %q", found, expected)
			}
		case <-time.After(10 * time.Second):
			return fmt.Errorf("never %q", expected)
		}
	}
	return nil
}

func metadataOnly(ctx context.Context, config *rest.Config, _ kubernetes.Interface) error {
	client := metadata.NewForConfigOrDie(config)
	maps := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"})
	list, err := maps.Namespace("kube-system").List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return fmt.Errorf("%w: %+v", err, list)
	}
	watch, err := maps.Namespace(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer watch.Stop()
	event := <-watch.ResultChan()
	if object, ok := event.Object.(*metav1.PartialObjectMetadata); !ok || object.Name != "kube-root-ca.crt" {
		return fmt.Errorf("%+v", event)
	}
	return nil
}

// Lists every built-in resource in JSON and in protobuf; Go's types must come out equal.
func compare(ctx context.Context, config *rest.Config, client kubernetes.Interface) error {
	lists, err := discovery.ServerPreferredResources(client.Discovery())
	if err != nil {
		return err
	}
	kinds, objects := 0, 0
	for _, list := range lists {
		gv, _ := schema.ParseGroupVersion(list.GroupVersion)
		for _, resource := range list.APIResources {
			gvk := gv.WithKind(resource.Kind + "List")
			if !scheme.Scheme.Recognizes(gvk) || !strings.Contains(resource.Verbs.String(), "list") {
				continue
			}
			count, err := compareKind(ctx, config, gv, resource.Name, gvk)
			if err != nil {
				return fmt.Errorf("%s: %w", resource.Name, err)
			}
			kinds, objects = kinds+1, objects+count
		}
	}
	if kinds < 50 || objects < 50 {
		return fmt.Errorf("only %d kinds and %d objects were compared", kinds, objects)
	}
	return nil
}

func compareKind(ctx context.Context, config *rest.Config, gv schema.GroupVersion, plural string, gvk schema.GroupVersionKind) (int, error) {
	read := func(mediaType string) (map[types.UID]runtime.Object, error) {
		own := rest.CopyConfig(config)
		own.GroupVersion, own.APIPath, own.NegotiatedSerializer = &gv, "/apis", scheme.Codecs.WithoutConversion()
		if gv.Group == "" {
			own.APIPath = "/api"
		}
		own.ContentConfig.ContentType, own.ContentConfig.AcceptContentTypes = mediaType, mediaType
		client, err := rest.RESTClientFor(own)
		if err != nil {
			return nil, err
		}
		list, err := scheme.Scheme.New(gvk)
		if err != nil {
			return nil, err
		}
		options := metav1.ListOptions{FieldSelector: fields.Everything().String()}
		if err = client.Get().Resource(plural).VersionedParams(&options, scheme.ParameterCodec).Do(ctx).Into(list); err != nil {
			return nil, err
		}
		found := map[types.UID]runtime.Object{}
		err = meta.EachListItem(list, func(object runtime.Object) error {
			accessor, err := meta.Accessor(object)
			if err == nil {
				found[types.UID(string(accessor.GetUID())+"@"+accessor.GetResourceVersion())] = object
			}
			return err
		})
		return found, err
	}
	plain, err := read(runtime.ContentTypeJSON)
	if err != nil {
		return 0, err
	}
	packed, err := read(protobuf)
	if err != nil {
		return 0, err
	}
	for id, object := range plain {
		// What was changed between the two lists is another object.
		if other, ok := packed[id]; ok && !equality.Semantic.DeepEqual(object, other) {
			first, _ := json.Marshal(object)
			second, _ := json.Marshal(other)
			return 0, fmt.Errorf("JSON says\n%s\nprotobuf says\n%s", first, second)
		}
	}
	return len(plain), nil
}

// Creates one object of each kind in JSON and in protobuf, without keeping it; the same must come of both.
func create(ctx context.Context, config *rest.Config, _ kubernetes.Interface) error {
	var samples []struct {
		Path   string
		Object json.RawMessage
	}
	// The samples are written for a namespace of another name.
	if text, err := os.ReadFile(os.Args[4]); err != nil {
		return err
	} else if err = json.Unmarshal(bytes.ReplaceAll(text, []byte("conformance"), []byte(namespace)), &samples); err != nil {
		return err
	}
	kinds := 0
	for _, sample := range samples {
		object, gvk, err := scheme.Codecs.UniversalDeserializer().Decode(sample.Object, nil, nil)
		if runtime.IsNotRegisteredError(err) {
			continue
		} else if err != nil {
			return err
		}
		var made [2]string
		for index, mediaType := range []string{runtime.ContentTypeJSON, protobuf} {
			if made[index], err = createAs(ctx, config, mediaType, sample.Path, gvk.GroupVersion(), object); err != nil {
				return fmt.Errorf("%s as %s: %w", gvk.Kind, mediaType, err)
			}
		}
		if made[0] != made[1] {
			return fmt.Errorf("of JSON comes\n%s\nof protobuf comes\n%s", made[0], made[1])
		}
		kinds++
	}
	if kinds < 50 {
		return fmt.Errorf("only %d kinds were compared", kinds)
	}
	return nil
}

// What would be made, without what is new each time.
func createAs(ctx context.Context, config *rest.Config, mediaType, path string, gv schema.GroupVersion, object runtime.Object) (string, error) {
	own := rest.CopyConfig(config)
	own.GroupVersion, own.NegotiatedSerializer = &gv, scheme.Codecs.WithoutConversion()
	own.ContentConfig.ContentType, own.ContentConfig.AcceptContentTypes = mediaType, mediaType
	client, err := rest.RESTClientFor(own)
	if err != nil {
		return "", err
	}
	made, err := client.Post().AbsPath(path).Param("dryRun", "All").Body(object).Do(ctx).Get()
	if errors.IsInvalid(err) {
		return err.Error(), nil
	} else if err != nil {
		return "", err
	}
	accessor, err := meta.Accessor(made)
	if err != nil {
		return "", err
	}
	uid := string(accessor.GetUID())
	accessor.SetManagedFields(nil)
	accessor.SetCreationTimestamp(metav1.Time{})
	made.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	text, err := json.Marshal(made)
	random := regexp.MustCompile(regexp.QuoteMeta(uid) + `|kube-api-access-.....|10\.96\.\d+\.\d+`)
	// A template's kind does not travel in protobuf.
	text = bytes.ReplaceAll(text, []byte(`"kind":"PersistentVolumeClaim","apiVersion":"v1",`), nil)
	return random.ReplaceAllString(string(text), "RANDOM"), err
}

// Operators elect their leader this way.
func elect(ctx context.Context, _ *rest.Config, client kubernetes.Interface) error {
	won, lost := make(chan string, 2), make(chan struct{})
	candidate := func(ctx context.Context, name string) {
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Name: "operator", Namespace: namespace}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 6 * time.Second, RenewDeadline: 4 * time.Second, RetryPeriod: 500 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { won <- name },
				OnStoppedLeading: func() {
					if name == "first" {
						close(lost)
					}
				},
			},
		})
	}
	first, stop := context.WithCancel(ctx)
	defer stop()
	go candidate(first, "first")
	if name := <-won; name != "first" {
		return fmt.Errorf("%s has won", name)
	}
	go candidate(ctx, "second")
	select {
	case name := <-won:
		return fmt.Errorf("%s leads beside the first", name)
	case <-time.After(2 * time.Second):
	}
	stop()
	<-lost
	select {
	case <-won:
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("nobody leads after the first has stopped")
	}
}
