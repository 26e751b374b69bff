package front;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.Predicate;
import java.util.function.Supplier;
import java.util.regex.Pattern;

import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.email.UAX29URLEmailTokenizer;
import org.apache.lucene.analysis.miscellaneous.RemoveDuplicatesTokenFilter;
import org.apache.lucene.analysis.pattern.PatternCaptureGroupTokenFilter;
import org.elasticsearch.Build;
import org.elasticsearch.ResourceNotFoundException;
import org.elasticsearch.action.ActionListener;
import org.elasticsearch.action.ActionRequest;
import org.elasticsearch.action.ActionRequestValidationException;
import org.elasticsearch.action.ActionResponse;
import org.elasticsearch.action.ActionType;
import org.elasticsearch.action.datastreams.CreateDataStreamAction;
import org.elasticsearch.action.datastreams.DeleteDataStreamAction;
import org.elasticsearch.action.datastreams.GetDataStreamAction;
import org.elasticsearch.action.support.ActionFilters;
import org.elasticsearch.action.support.HandledTransportAction;
import org.elasticsearch.action.support.master.AcknowledgedResponse;
import org.elasticsearch.action.support.master.AcknowledgedTransportMasterNodeAction;
import org.elasticsearch.action.support.master.MasterNodeRequest;
import org.elasticsearch.action.support.master.TransportMasterNodeAction;
import org.elasticsearch.client.internal.node.NodeClient;
import org.elasticsearch.cluster.ClusterState;
import org.elasticsearch.cluster.ClusterStateUpdateTask;
import org.elasticsearch.cluster.block.ClusterBlockException;
import org.elasticsearch.cluster.block.ClusterBlockLevel;
import org.elasticsearch.cluster.health.ClusterStateHealth;
import org.elasticsearch.cluster.metadata.DataStream;
import org.elasticsearch.cluster.metadata.IndexNameExpressionResolver;
import org.elasticsearch.cluster.metadata.Metadata;
import org.elasticsearch.cluster.metadata.MetadataCreateDataStreamService;
import org.elasticsearch.cluster.metadata.MetadataDeleteIndexService;
import org.elasticsearch.cluster.metadata.MetadataIndexTemplateService;
import org.elasticsearch.cluster.node.DiscoveryNodes;
import org.elasticsearch.cluster.service.ClusterService;
import org.elasticsearch.common.io.stream.NamedWriteableRegistry;
import org.elasticsearch.common.io.stream.StreamInput;
import org.elasticsearch.common.io.stream.Writeable;
import org.elasticsearch.common.regex.Regex;
import org.elasticsearch.common.settings.ClusterSettings;
import org.elasticsearch.common.settings.IndexScopedSettings;
import org.elasticsearch.common.settings.Setting;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.common.settings.SettingsFilter;
import org.elasticsearch.common.util.concurrent.EsExecutors;
import org.elasticsearch.features.NodeFeature;
import org.elasticsearch.index.Index;
import org.elasticsearch.index.IndexSettings;
import org.elasticsearch.index.IndexVersion;
import org.elasticsearch.index.analysis.AbstractTokenFilterFactory;
import org.elasticsearch.index.analysis.AbstractTokenizerFactory;
import org.elasticsearch.index.analysis.TokenFilterFactory;
import org.elasticsearch.index.analysis.TokenizerFactory;
import org.elasticsearch.indices.analysis.AnalysisModule;
import org.elasticsearch.injection.guice.Inject;
import org.elasticsearch.plugins.ActionPlugin;
import org.elasticsearch.plugins.AnalysisPlugin;
import org.elasticsearch.plugins.Plugin;
import org.elasticsearch.rest.BaseRestHandler;
import org.elasticsearch.rest.RestController;
import org.elasticsearch.rest.RestHandler;
import org.elasticsearch.rest.RestRequest;
import org.elasticsearch.rest.RestResponse;
import org.elasticsearch.rest.RestStatus;
import org.elasticsearch.rest.RestUtils;
import org.elasticsearch.rest.action.RestActionListener;
import org.elasticsearch.rest.action.RestChunkedToXContentListener;
import org.elasticsearch.rest.action.RestToXContentListener;
import org.elasticsearch.tasks.Task;
import org.elasticsearch.threadpool.ThreadPool;
import org.elasticsearch.transport.TransportService;
import org.elasticsearch.xcontent.NamedXContentRegistry;
import org.elasticsearch.xcontent.ParseField;
import org.elasticsearch.xcontent.XContentBuilder;
import org.elasticsearch.xcontent.XContentParser;
import org.elasticsearch.xpack.core.ilm.*;
import org.elasticsearch.xpack.core.ilm.action.DeleteLifecycleAction;
import org.elasticsearch.xpack.core.ilm.action.GetLifecycleAction;
import org.elasticsearch.xpack.core.ilm.action.ILMActions;
import org.elasticsearch.xpack.core.ilm.action.PutLifecycleRequest;

/**
 * Test-only module for the bare Elasticsearch distribution: opens over REST what the server's own classes
 * already do but no module of that distribution registers.
 *   GET/HEAD /                        the banner that clients ask for
 *   PUT/GET/DELETE _data_stream/NAME  the server's data-stream service and metadata
 *   PUT/GET/DELETE _ilm/policy/NAME   parsed, validated and stored by x-pack-core; policies are NOT executed
 *   index.lifecycle.* settings; token filters pattern_capture and unique, tokenizer uax_url_email
 *   (the .security index needs these three: without them no API key can be made)
 */
public class FrontPlugin extends Plugin implements ActionPlugin, AnalysisPlugin {
    private ClusterService clusterService;

    @Override
    public Collection<?> createComponents(PluginServices services) {
        clusterService = services.clusterService();
        return List.of();
    }

    // ---- analysis ------------------------------------------------------------------------------
    @Override
    public Map<String, AnalysisModule.AnalysisProvider<TokenFilterFactory>> getTokenFilters() {
        return Map.of("pattern_capture", AnalysisPlugin.requiresAnalysisSettings((i, e, name, s) -> new AbstractTokenFilterFactory(name, s) {
            final Pattern[] patterns = s.getAsList("patterns").stream().map(Pattern::compile).toArray(Pattern[]::new);
            final boolean keep = s.getAsBoolean("preserve_original", true);
            @Override
            public TokenStream create(TokenStream in) {
                return new PatternCaptureGroupTokenFilter(in, keep, patterns);
            }
        }), "unique", (i, e, name, s) -> new AbstractTokenFilterFactory(name, s) {
            @Override
            public TokenStream create(TokenStream in) {
                return new RemoveDuplicatesTokenFilter(in);
            }
        });
    }

    @Override
    public Map<String, AnalysisModule.AnalysisProvider<TokenizerFactory>> getTokenizers() {
        return Map.of("uax_url_email", (i, e, name, s) -> new AbstractTokenizerFactory(i, s, name) {
            @Override
            public org.apache.lucene.analysis.Tokenizer create() {
                return new UAX29URLEmailTokenizer();
            }
        });
    }

    // ---- settings and parsers ------------------------------------------------------------------
    @Override
    public List<Setting<?>> getSettings() {
        return List.of(
            LifecycleSettings.LIFECYCLE_POLL_INTERVAL_SETTING, LifecycleSettings.LIFECYCLE_NAME_SETTING,
            LifecycleSettings.LIFECYCLE_INDEXING_COMPLETE_SETTING, LifecycleSettings.LIFECYCLE_SKIP_SETTING,
            LifecycleSettings.LIFECYCLE_ROLLOVER_ONLY_IF_HAS_DOCUMENTS_SETTING, RolloverAction.LIFECYCLE_ROLLOVER_ALIAS_SETTING);
    }

    @Override
    public List<NamedXContentRegistry.Entry> getNamedXContent() {
        List<NamedXContentRegistry.Entry> e = new ArrayList<>();
        e.add(new NamedXContentRegistry.Entry(Metadata.Custom.class, new ParseField(IndexLifecycleMetadata.TYPE), p -> IndexLifecycleMetadata.PARSER.parse(p, null)));
        e.add(new NamedXContentRegistry.Entry(LifecycleType.class, new ParseField(TimeseriesLifecycleType.TYPE), p -> TimeseriesLifecycleType.INSTANCE));
        action(e, AllocateAction.NAME, AllocateAction::parse);
        action(e, DeleteAction.NAME, DeleteAction::parse);
        action(e, DownsampleAction.NAME, DownsampleAction::parse);
        action(e, ForceMergeAction.NAME, ForceMergeAction::parse);
        action(e, FreezeAction.NAME, FreezeAction::parse);
        action(e, MigrateAction.NAME, MigrateAction::parse);
        action(e, ReadOnlyAction.NAME, ReadOnlyAction::parse);
        action(e, RolloverAction.NAME, RolloverAction::parse);
        action(e, SearchableSnapshotAction.NAME, SearchableSnapshotAction::parse);
        action(e, SetPriorityAction.NAME, SetPriorityAction::parse);
        action(e, ShrinkAction.NAME, ShrinkAction::parse);
        action(e, UnfollowAction.NAME, UnfollowAction::parse);
        action(e, WaitForSnapshotAction.NAME, WaitForSnapshotAction::parse);
        return e;
    }

    private static <T> void action(List<NamedXContentRegistry.Entry> e, String name, org.elasticsearch.core.CheckedFunction<XContentParser, ? extends LifecycleAction, java.io.IOException> parse) {
        e.add(new NamedXContentRegistry.Entry(LifecycleAction.class, new ParseField(name), parse::apply));
    }

    // ---- transport actions -----------------------------------------------------------------------
    @Override
    public Collection<ActionHandler<? extends ActionRequest, ? extends ActionResponse>> getActions() {
        return List.of(
            new ActionHandler<>(MAIN, Main.class),
            new ActionHandler<>(CreateDataStreamAction.INSTANCE, CreateStream.class),
            new ActionHandler<>(GetDataStreamAction.INSTANCE, GetStream.class),
            new ActionHandler<>(DeleteDataStreamAction.INSTANCE, DeleteStream.class),
            new ActionHandler<>(ILMActions.PUT, PutPolicy.class),
            new ActionHandler<>(GetLifecycleAction.INSTANCE, GetPolicy.class),
            new ActionHandler<>(DeleteLifecycleAction.INSTANCE, DeletePolicy.class));
    }

    /** Only there so that GET / is authorized under the name that privileges know it by; the REST handler makes the banner. */
    static final ActionType<ActionResponse.Empty> MAIN = new ActionType<>("cluster:monitor/main");

    public static class MainRequest extends ActionRequest {
        public MainRequest() {}
        public MainRequest(StreamInput in) throws java.io.IOException {
            super(in);
        }
        @Override
        public ActionRequestValidationException validate() {
            return null;
        }
    }

    public static class Main extends HandledTransportAction<MainRequest, ActionResponse.Empty> {
        @Inject
        public Main(TransportService t, ActionFilters f) {
            super(MAIN.name(), t, f, MainRequest::new, EsExecutors.DIRECT_EXECUTOR_SERVICE);
        }
        @Override
        protected void doExecute(Task task, MainRequest r, ActionListener<ActionResponse.Empty> l) {
            l.onResponse(ActionResponse.Empty.INSTANCE);
        }
    }

    abstract static class Ack<R extends MasterNodeRequest<R>> extends AcknowledgedTransportMasterNodeAction<R> {
        Ack(String name, TransportService t, ClusterService c, ThreadPool p, ActionFilters f, Writeable.Reader<R> r) {
            super(name, t, c, p, f, r, EsExecutors.DIRECT_EXECUTOR_SERVICE);
        }
        @Override
        protected ClusterBlockException checkBlock(R r, ClusterState s) {
            return s.blocks().globalBlockedException(ClusterBlockLevel.METADATA_WRITE);
        }
        void update(String what, ActionListener<AcknowledgedResponse> l, java.util.function.Function<ClusterState, ClusterState> fn) {
            clusterService.submitUnbatchedStateUpdateTask(what, new ClusterStateUpdateTask() {
                @Override
                public ClusterState execute(ClusterState s) {
                    return fn.apply(s);
                }
                @Override
                public void onFailure(Exception e) {
                    l.onFailure(e);
                }
                @Override
                public void clusterStateProcessed(ClusterState a, ClusterState b) {
                    l.onResponse(AcknowledgedResponse.TRUE);
                }
            });
        }
    }

    public static class CreateStream extends Ack<CreateDataStreamAction.Request> {
        private final MetadataCreateDataStreamService service;
        @Inject
        public CreateStream(TransportService t, ClusterService c, ThreadPool p, ActionFilters f, MetadataCreateDataStreamService service) {
            super(CreateDataStreamAction.NAME, t, c, p, f, CreateDataStreamAction.Request::new);
            this.service = service;
        }
        @Override
        protected void masterOperation(Task task, CreateDataStreamAction.Request r, ClusterState s, ActionListener<AcknowledgedResponse> l) {
            service.createDataStream(new MetadataCreateDataStreamService.CreateDataStreamClusterStateUpdateRequest(
                r.getName(), r.getStartTime(), null, r.masterNodeTimeout(), r.ackTimeout(), true), l);
        }
    }

    public static class DeleteStream extends Ack<DeleteDataStreamAction.Request> {
        private final IndexNameExpressionResolver names;
        @Inject
        public DeleteStream(TransportService t, ClusterService c, ThreadPool p, ActionFilters f, IndexNameExpressionResolver names) {
            super(DeleteDataStreamAction.NAME, t, c, p, f, DeleteDataStreamAction.Request::new);
            this.names = names;
        }
        @Override
        protected void masterOperation(Task task, DeleteDataStreamAction.Request r, ClusterState s0, ActionListener<AcknowledgedResponse> l) {
            update("front-delete-data-stream", l, s -> {
                Metadata.Builder m = Metadata.builder(s.metadata());
                Set<Index> gone = new java.util.HashSet<>();
                for (String n : names.dataStreamNames(s, r.indicesOptions(), r.getNames())) {
                    gone.addAll(s.metadata().dataStreams().get(n).getIndices());
                    m.removeDataStream(n);
                }
                return MetadataDeleteIndexService.deleteIndices(ClusterState.builder(s).metadata(m).build(), gone, clusterService.getSettings());
            });
        }
    }

    public static class GetStream extends TransportMasterNodeAction<GetDataStreamAction.Request, GetDataStreamAction.Response> {
        private final IndexNameExpressionResolver names;
        @Inject
        public GetStream(TransportService t, ClusterService c, ThreadPool p, ActionFilters f, IndexNameExpressionResolver names) {
            super(GetDataStreamAction.NAME, t, c, p, f, GetDataStreamAction.Request::new, in -> { throw new UnsupportedOperationException(); }, EsExecutors.DIRECT_EXECUTOR_SERVICE);
            this.names = names;
        }
        @Override
        protected ClusterBlockException checkBlock(GetDataStreamAction.Request r, ClusterState s) {
            return s.blocks().globalBlockedException(ClusterBlockLevel.METADATA_READ);
        }
        @Override
        protected void masterOperation(Task task, GetDataStreamAction.Request r, ClusterState s, ActionListener<GetDataStreamAction.Response> l) {
            List<GetDataStreamAction.Response.DataStreamInfo> out = new ArrayList<>();
            for (String n : new java.util.TreeSet<>(names.dataStreamNames(s, r.indicesOptions(), r.indices()))) {
                DataStream d = s.metadata().dataStreams().get(n);
                String template = MetadataIndexTemplateService.findV2Template(s.metadata(), n, false);
                Settings settings = template == null ? Settings.EMPTY : MetadataIndexTemplateService.resolveSettings(s.metadata(), template);
                String[] backing = d.getIndices().stream().map(Index::getName).toArray(String[]::new);
                Map<Index, GetDataStreamAction.Response.IndexProperties> props = new java.util.HashMap<>();
                for (Index i : d.getIndices()) {
                    Settings is = s.metadata().index(i).getSettings();
                    String pol = LifecycleSettings.LIFECYCLE_NAME_SETTING.get(is);
                    props.put(i, new GetDataStreamAction.Response.IndexProperties(true, pol.isEmpty() ? null : pol,
                        pol.isEmpty() ? GetDataStreamAction.Response.ManagedBy.UNMANAGED : GetDataStreamAction.Response.ManagedBy.ILM, null));
                }
                out.add(new GetDataStreamAction.Response.DataStreamInfo(d, false, new ClusterStateHealth(s, backing).getStatus(), template,
                    settings.get(LifecycleSettings.LIFECYCLE_NAME), null, props, true, null, null));
            }
            l.onResponse(new GetDataStreamAction.Response(out));
        }
    }

    private static IndexLifecycleMetadata ilm(ClusterState s) {
        IndexLifecycleMetadata m = s.metadata().custom(IndexLifecycleMetadata.TYPE);
        return m == null ? IndexLifecycleMetadata.EMPTY : m;
    }

    private static ClusterState with(ClusterState s, SortedMap<String, LifecyclePolicyMetadata> p) {
        return ClusterState.builder(s).metadata(Metadata.builder(s.metadata())
            .putCustom(IndexLifecycleMetadata.TYPE, new IndexLifecycleMetadata(p, OperationMode.RUNNING))).build();
    }

    public static class PutPolicy extends Ack<PutLifecycleRequest> {
        @Inject
        public PutPolicy(TransportService t, ClusterService c, ThreadPool p, ActionFilters f) {
            super(ILMActions.PUT.name(), t, c, p, f, PutLifecycleRequest::new);
        }
        @Override
        protected void masterOperation(Task task, PutLifecycleRequest r, ClusterState s0, ActionListener<AcknowledgedResponse> l) {
            LifecyclePolicy.validatePolicyName(r.getPolicy().getName());
            update("front-put-lifecycle", l, s -> {
                SortedMap<String, LifecyclePolicyMetadata> p = new TreeMap<>(ilm(s).getPolicyMetadatas());
                LifecyclePolicyMetadata old = p.get(r.getPolicy().getName());
                p.put(r.getPolicy().getName(), new LifecyclePolicyMetadata(r.getPolicy(), Map.of(), old == null ? 1 : old.getVersion() + 1, System.currentTimeMillis()));
                return with(s, p);
            });
        }
    }

    public static class DeletePolicy extends Ack<DeleteLifecycleAction.Request> {
        @Inject
        public DeletePolicy(TransportService t, ClusterService c, ThreadPool p, ActionFilters f) {
            super(DeleteLifecycleAction.NAME, t, c, p, f, DeleteLifecycleAction.Request::new);
        }
        @Override
        protected void masterOperation(Task task, DeleteLifecycleAction.Request r, ClusterState s0, ActionListener<AcknowledgedResponse> l) {
            update("front-delete-lifecycle", l, s -> {
                SortedMap<String, LifecyclePolicyMetadata> p = new TreeMap<>(ilm(s).getPolicyMetadatas());
                if (p.remove(r.getPolicyName()) == null) throw new ResourceNotFoundException("Lifecycle policy not found: {}", r.getPolicyName());
                return with(s, p);
            });
        }
    }

    public static class GetPolicy extends TransportMasterNodeAction<GetLifecycleAction.Request, GetLifecycleAction.Response> {
        private final IndexNameExpressionResolver names;
        @Inject
        public GetPolicy(TransportService t, ClusterService c, ThreadPool p, ActionFilters f, IndexNameExpressionResolver names) {
            super(GetLifecycleAction.NAME, t, c, p, f, GetLifecycleAction.Request::new, GetLifecycleAction.Response::new, EsExecutors.DIRECT_EXECUTOR_SERVICE);
            this.names = names;
        }
        @Override
        protected ClusterBlockException checkBlock(GetLifecycleAction.Request r, ClusterState s) {
            return s.blocks().globalBlockedException(ClusterBlockLevel.METADATA_READ);
        }
        @Override
        protected void masterOperation(Task task, GetLifecycleAction.Request r, ClusterState s, ActionListener<GetLifecycleAction.Response> l) {
            String[] want = r.getPolicyNames();
            List<String> asked = want == null ? List.of() : List.of(want);
            LifecyclePolicyUsageCalculator usage = new LifecyclePolicyUsageCalculator(names, s, asked.isEmpty() ? List.of("*") : asked);
            List<GetLifecycleAction.LifecyclePolicyResponseItem> out = new ArrayList<>();
            for (LifecyclePolicyMetadata m : ilm(s).getPolicyMetadatas().values()) {
                if (asked.isEmpty() || asked.stream().anyMatch(a -> Regex.simpleMatch(a, m.getName()))) {
                    out.add(new GetLifecycleAction.LifecyclePolicyResponseItem(m.getPolicy(), m.getVersion(), m.getModifiedDateString(), usage.retrieveCalculatedUsage(m.getName())));
                }
            }
            if (out.isEmpty() && asked.stream().anyMatch(a -> Regex.isSimpleMatchPattern(a) == false)) {
                l.onFailure(new ResourceNotFoundException("Lifecycle policy not found: {}", asked));
            } else {
                l.onResponse(new GetLifecycleAction.Response(out));
            }
        }
    }

    // ---- REST ------------------------------------------------------------------------------------
    private interface Prepare {
        org.elasticsearch.core.CheckedConsumer<org.elasticsearch.rest.RestChannel, Exception> apply(RestRequest r, NodeClient c) throws java.io.IOException;
    }

    private static RestHandler rest(String name, Prepare fn, RestHandler.Route... routes) {
        return new BaseRestHandler() {
            @Override
            public String getName() {
                return "front_" + name;
            }
            @Override
            public List<RestHandler.Route> routes() {
                return List.of(routes);
            }
            @Override
            public Set<String> supportedCapabilities() {
                return Set.of();
            }
            @Override
            protected RestChannelConsumer prepareRequest(RestRequest r, NodeClient c) throws java.io.IOException {
                for (String p : List.of("expand_wildcards", "include_defaults", "verbose", "timeout", "master_timeout", "human")) r.param(p);
                return fn.apply(r, c)::accept;
            }
        };
    }

    private static RestHandler.Route on(RestRequest.Method m, String path) {
        return new RestHandler.Route(m, path);
    }

    private static String[] csv(RestRequest r, String p) {
        String v = r.param(p);
        return v == null ? new String[0] : v.split(",");
    }

    @Override
    public Collection<RestHandler> getRestHandlers(Settings settings, NamedWriteableRegistry nw, RestController rc, ClusterSettings cs, IndexScopedSettings is,
        SettingsFilter sf, IndexNameExpressionResolver names, Supplier<DiscoveryNodes> nodes, Predicate<NodeFeature> features) {
        return List.of(
            rest("main", (r, c) -> ch -> c.execute(MAIN, new MainRequest(), new RestActionListener<>(ch) {
                @Override
                protected void processResponse(ActionResponse.Empty ok) throws Exception {
                XContentBuilder b = ch.newBuilder();
                b.startObject().field("name", clusterService.getNodeName()).field("cluster_name", clusterService.getClusterName().value())
                    .field("cluster_uuid", clusterService.state().metadata().clusterUUID()).startObject("version")
                    .field("number", Build.current().version()).field("build_flavor", "default").field("build_type", Build.current().type().displayName())
                    .field("build_hash", Build.current().hash()).field("build_date", Build.current().date()).field("build_snapshot", Build.current().isSnapshot())
                    .field("lucene_version", IndexVersion.current().luceneVersion().toString())
                    .field("minimum_wire_compatibility_version", Build.current().minWireCompatVersion())
                    .field("minimum_index_compatibility_version", Build.current().minIndexCompatVersion()).endObject()
                    .field("tagline", "You Know, for Search").endObject();
                ch.sendResponse(new RestResponse(RestStatus.OK, b));
                }
            }), on(RestRequest.Method.GET, "/"), on(RestRequest.Method.HEAD, "/")),
            rest("create_data_stream", (r, c) -> {
                var q = new CreateDataStreamAction.Request(RestUtils.getMasterNodeTimeout(r), RestUtils.getAckTimeout(r), r.param("name"));
                return ch -> c.execute(CreateDataStreamAction.INSTANCE, q, new RestToXContentListener<>(ch));
            }, on(RestRequest.Method.PUT, "/_data_stream/{name}")),
            rest("get_data_stream", (r, c) -> {
                var q = new GetDataStreamAction.Request(RestUtils.getMasterNodeTimeout(r), r.hasParam("name") ? csv(r, "name") : new String[] { "*" });
                return ch -> c.execute(GetDataStreamAction.INSTANCE, q, new RestToXContentListener<>(ch));
            }, on(RestRequest.Method.GET, "/_data_stream"), on(RestRequest.Method.GET, "/_data_stream/{name}")),
            rest("delete_data_stream", (r, c) -> {
                var q = new DeleteDataStreamAction.Request(RestUtils.getMasterNodeTimeout(r), csv(r, "name"));
                return ch -> c.execute(DeleteDataStreamAction.INSTANCE, q, new RestToXContentListener<>(ch));
            }, on(RestRequest.Method.DELETE, "/_data_stream/{name}")),
            rest("put_lifecycle", (r, c) -> {
                PutLifecycleRequest q;
                try (XContentParser p = r.contentParser()) {
                    q = PutLifecycleRequest.parseRequest(new PutLifecycleRequest.Factory() {
                        @Override
                        public PutLifecycleRequest create(LifecyclePolicy policy) {
                            return new PutLifecycleRequest(RestUtils.getMasterNodeTimeout(r), RestUtils.getAckTimeout(r), policy);
                        }
                        @Override
                        public String getPolicyName() {
                            return r.param("name");
                        }
                    }, p);
                }
                return ch -> c.execute(ILMActions.PUT, q, new RestToXContentListener<>(ch));
            }, on(RestRequest.Method.PUT, "/_ilm/policy/{name}")),
            rest("get_lifecycle", (r, c) -> {
                var q = new GetLifecycleAction.Request(RestUtils.getMasterNodeTimeout(r), RestUtils.getAckTimeout(r), csv(r, "name"));
                return ch -> c.execute(GetLifecycleAction.INSTANCE, q, new RestChunkedToXContentListener<>(ch));
            }, on(RestRequest.Method.GET, "/_ilm/policy"), on(RestRequest.Method.GET, "/_ilm/policy/{name}")),
            rest("delete_lifecycle", (r, c) -> {
                var q = new DeleteLifecycleAction.Request(RestUtils.getMasterNodeTimeout(r), RestUtils.getAckTimeout(r), r.param("name"));
                return ch -> c.execute(DeleteLifecycleAction.INSTANCE, q, new RestToXContentListener<>(ch));
            }, on(RestRequest.Method.DELETE, "/_ilm/policy/{name}")));
    }
}
